"""The configuration of a LibreChat that works behind GEKO: librechat.yaml and .env, made from GEKO's own settings."""
