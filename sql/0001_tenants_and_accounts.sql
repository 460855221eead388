-- Tenants, accounts, workspaces, and the wall between tenants.
-- Every primary, unique and foreign key starts with tenant_id, so that the tables can be distributed by tenant.

-- Roles belong to the whole server: another database of it may have created geko_app, even at this moment.
do $$
begin
    create role geko_app nologin nosuperuser nocreatedb nocreaterole nobypassrls;
exception when duplicate_object or unique_violation then
    null;
end
$$;
grant geko_app to current_user;

revoke create on schema public from public, geko_app;
grant usage on schema public to geko_app;
do $$
begin
    execute format('revoke temporary on database %I from public', current_database());
end
$$;

create table tenants (
    tenant_id uuid primary key,
    name text not null check (length(name) between 1 and 120),
    time_zone text not null default 'UTC',
    status text not null default 'active' check (status in ('active', 'suspended')),
    created_at timestamptz not null default now()
);

create table users (
    tenant_id uuid not null references tenants on delete cascade,
    user_id uuid not null,
    email text not null check (email = lower(email) and length(email) <= 254),
    name text not null,
    username text,
    password_hash text,
    created_at timestamptz not null default now(),
    disabled_at timestamptz,
    primary key (tenant_id, user_id),
    unique (tenant_id, email)
);

create table workspaces (
    tenant_id uuid not null references tenants on delete cascade,
    workspace_id uuid not null,
    name text not null check (length(name) between 1 and 120),
    created_at timestamptz not null default now(),
    archived_at timestamptz,
    primary key (tenant_id, workspace_id)
);

create table workspace_members (
    tenant_id uuid not null references tenants on delete cascade,
    workspace_id uuid not null,
    user_id uuid not null,
    role text not null check (role in ('owner', 'admin', 'member', 'viewer')),
    created_at timestamptz not null default now(),
    primary key (tenant_id, workspace_id, user_id),
    foreign key (tenant_id, workspace_id) references workspaces on delete cascade,
    foreign key (tenant_id, user_id) references users on delete cascade
);
create index workspace_members_by_user on workspace_members (tenant_id, user_id);

-- null in models or mcp_servers: everything is allowed
create table workspace_config (
    tenant_id uuid not null references tenants on delete cascade,
    workspace_id uuid not null,
    models text[],
    default_model text,
    mcp_servers text[],
    version integer not null,
    updated_at timestamptz not null default now(),
    primary key (tenant_id, workspace_id),
    foreign key (tenant_id, workspace_id) references workspaces on delete cascade
);

-- One row is a family of refresh tokens: only the newest and the one before it are known, as SHA-256.
create table sessions (
    tenant_id uuid not null references tenants on delete cascade,
    session_id uuid not null,
    user_id uuid not null,
    workspace_id uuid not null,
    token_hash bytea not null,
    previous_hash bytea,
    rotation_key bytea,
    ip text,
    user_agent text,
    created_at timestamptz not null default now(),
    rotated_at timestamptz not null default now(),
    expires_at timestamptz not null,
    revoked_at timestamptz,
    primary key (tenant_id, session_id),
    foreign key (tenant_id, user_id) references users on delete cascade,
    foreign key (tenant_id, workspace_id) references workspaces on delete cascade
);
create index sessions_by_user on sessions (tenant_id, user_id);

-- Deleting a user or a workspace must not orphan an account that still exists in LibreChat: no cascade here.
create table shadow_accounts (
    tenant_id uuid not null references tenants on delete cascade,
    workspace_id uuid not null,
    user_id uuid not null,
    librechat_user_id text not null check (librechat_user_id ~ '^[0-9a-f]{24}$'),
    email text not null,
    created_at timestamptz not null default now(),
    primary key (tenant_id, workspace_id, user_id),
    unique (tenant_id, librechat_user_id),
    foreign key (tenant_id, workspace_id) references workspaces,
    foreign key (tenant_id, user_id) references users
);

create table shared_links (
    tenant_id uuid not null references tenants on delete cascade,
    share_id text not null,
    workspace_id uuid not null,
    user_id uuid not null,
    created_at timestamptz not null default now(),
    primary key (tenant_id, share_id),
    foreign key (tenant_id, workspace_id) references workspaces on delete cascade,
    foreign key (tenant_id, user_id) references users on delete cascade
);

-- No foreign key to users: what somebody did stays on record after the account is gone.
create table audit_log (
    tenant_id uuid not null references tenants on delete cascade,
    audit_id uuid not null,
    occurred_at timestamptz not null default now(),
    actor_user_id uuid,
    action text not null,
    target text not null,
    ip text,
    request_id text,
    details jsonb not null default '{}',
    primary key (tenant_id, audit_id)
);
create index audit_log_by_time on audit_log (tenant_id, occurred_at desc);

-- Which tenant an e-mail address belongs to. It holds addresses of all tenants, so geko_app has no right on it
-- and only the two functions below reach it. No foreign key: the table is not distributed by tenant.
create table login_emails (
    email text primary key check (email = lower(email)),
    tenant_id uuid not null,
    user_id uuid not null
);
alter table login_emails enable row level security;

-- Not FORCE: the owner of the tables, under whom migrations and SECURITY DEFINER functions run, sees all tenants.
-- GEKO itself enters every transaction as geko_app, which owns nothing.
do $$
declare
    name text;
begin
    foreach name in array array['users', 'workspaces', 'workspace_members', 'workspace_config', 'sessions',
                                'shadow_accounts', 'shared_links', 'audit_log'] loop
        execute format('alter table %I enable row level security', name);
        execute format($policy$create policy tenant on %I
            using (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid)
            with check (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid)$policy$, name);
    end loop;
end
$$;

-- A transaction without a tenant may read every tenant's row; one with a tenant only its own.
alter table tenants enable row level security;
create policy tenant on tenants
    using (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid)
    with check (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid);
create policy no_tenant on tenants for select
    using (coalesce(current_setting('geko.tenant_id', true), '') = '');

grant select, insert, update on tenants, users to geko_app;
grant select, insert, update, delete on workspaces, workspace_members, workspace_config, sessions,
    shadow_accounts, shared_links to geko_app;
grant select, insert on audit_log to geko_app;

-- Raises unique_violation when the address is taken in any tenant.
create function claim_login_email(claimed_email text, claimed_user_id uuid) returns void
language sql security definer set search_path = public, pg_temp
as $$
    insert into login_emails (email, tenant_id, user_id)
    values (claimed_email, current_setting('geko.tenant_id')::uuid, claimed_user_id)
$$;

create function find_login_email(searched_email text) returns table (tenant_id uuid, user_id uuid)
language sql stable security definer set search_path = public, pg_temp
as $$
    select l.tenant_id, l.user_id from login_emails l where l.email = searched_email
$$;

revoke execute on function claim_login_email(text, uuid), find_login_email(text) from public;
grant execute on function claim_login_email(text, uuid), find_login_email(text) to geko_app;
