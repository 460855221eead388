"""What runs without a real LibreChat: the stand-in server and the demo data."""
