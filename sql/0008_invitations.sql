-- Invitations into a workspace, and the mail domains whose people join a tenant by themselves.

alter table users add column if not exists email_verified_at timestamptz;

-- Only the hash of a link's secret is kept. mailed: the link went to the address alone, so that whoever has it reads
-- that mailbox.
create table invitations (
    tenant_id uuid not null references tenants on delete cascade,
    invitation_id uuid not null,
    workspace_id uuid not null,
    token_hash bytea not null,
    email text check (email = lower(email) and length(email) <= 254),
    mailed boolean not null default false check (email is not null or not mailed),
    role text not null check (role in ('owner', 'admin', 'member', 'viewer')),
    max_uses integer not null default 1 check (max_uses between 1 and 1000),
    uses integer not null default 0 check (uses between 0 and max_uses),
    invited_by uuid not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    revoked_at timestamptz,
    primary key (tenant_id, invitation_id),
    foreign key (tenant_id, workspace_id) references workspaces on delete cascade,
    foreign key (tenant_id, invited_by) references users on delete cascade
);
create index invitations_by_workspace on invitations (tenant_id, workspace_id, created_at desc);

create table tenant_auto_join (
    tenant_id uuid not null references tenants on delete cascade,
    workspace_id uuid not null,
    role text not null check (role in ('member', 'viewer')),
    set_by uuid not null,
    updated_at timestamptz not null default now(),
    primary key (tenant_id),
    foreign key (tenant_id, workspace_id) references workspaces on delete cascade
);

-- A name of its own in the address of a workspace: {workspace}.{tenant}.example.org. Tenants' names are unique over
-- the installation, workspaces' within their tenant. Nobody has one until an owner gives it.
alter table tenants add column slug text unique check (slug ~ '^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$');
alter table workspaces add column slug text check (slug ~ '^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$');
alter table workspaces add constraint workspaces_by_slug unique (tenant_id, slug);

do $$
declare
    name text;
begin
    foreach name in array array['invitations', 'tenant_auto_join'] loop
        execute format('alter table %I enable row level security', name);
        execute format($policy$create policy tenant on %I
            using (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid)
            with check (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid)$policy$, name);
    end loop;
end
$$;
grant select, insert, update, delete on invitations, tenant_auto_join to geko_app;

-- Which tenant a mail domain belongs to. As login_emails: domains of all tenants, so geko_app has no right on it and
-- only the functions below reach it.
create table join_domains (
    domain text primary key check (domain = lower(domain) and length(domain) <= 253),
    tenant_id uuid not null references tenants on delete cascade
);
alter table join_domains enable row level security;

-- Replaces the domains of the tenant of this transaction. Raises unique_violation when another tenant has one.
create function set_join_domains(given text[]) returns void
language sql security definer set search_path = public, pg_temp
as $$
    delete from join_domains
    where tenant_id = current_setting('geko.tenant_id')::uuid and domain <> all (given);
    insert into join_domains (domain, tenant_id)
    select d, current_setting('geko.tenant_id')::uuid from unnest(given) d
    where not exists (select 1 from join_domains j
                      where j.domain = d and j.tenant_id = current_setting('geko.tenant_id')::uuid)
    order by d
$$;

create function own_join_domains() returns table (domain text)
language sql stable security definer set search_path = public, pg_temp
as $$
    select j.domain from join_domains j
    where j.tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid order by 1
$$;

create function find_join_domain(searched text) returns uuid
language sql stable security definer set search_path = public, pg_temp
as $$
    select j.tenant_id from join_domains j where j.domain = searched
$$;

revoke execute on function set_join_domains(text[]), own_join_domains(), find_join_domain(text) from public;
grant execute on function set_join_domains(text[]), own_join_domains(), find_join_domain(text) to geko_app;
