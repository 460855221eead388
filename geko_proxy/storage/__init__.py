"""PostgreSQL: the connection pool with its tenant scopes, migrations, the embedded server, invalidation."""
