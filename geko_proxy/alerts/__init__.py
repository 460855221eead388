"""Alerts: what quotas announce, the webhooks and mails that it goes to, and how it is delivered."""
