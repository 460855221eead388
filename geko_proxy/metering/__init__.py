"""What a turn costs: counting tokens, reading LibreChat's usage events, leasing and booking tokens, reports."""
