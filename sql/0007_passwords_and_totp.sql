-- The second factor: a key for one-time codes (TOTP, RFC 6238), recovery codes, and sign-ins that wait for a code.

alter table users add column two_factor boolean not null default false;

-- secret, pending_secret: sealed. last_step: the last 30 seconds of which a code was used; none is taken twice.
create table totp (
    tenant_id uuid not null references tenants on delete cascade,
    user_id uuid not null,
    secret text,
    confirmed_at timestamptz,
    pending_secret text,
    pending_codes bytea[] not null default '{}',
    pending_at timestamptz,
    last_step bigint not null default 0,
    failures integer not null default 0,
    blocked_until timestamptz,
    primary key (tenant_id, user_id),
    foreign key (tenant_id, user_id) references users on delete cascade
);

-- code_hash: an HMAC with the user's TOTP key, which is sealed: the codes are too short for a plain hash.
create table recovery_codes (
    tenant_id uuid not null references tenants on delete cascade,
    user_id uuid not null,
    code_hash bytea not null,
    used_at timestamptz,
    primary key (tenant_id, user_id, code_hash),
    foreign key (tenant_id, user_id) references users on delete cascade
);

-- The password was right, the code is still to come. bound_to: SHA-256 of what the same client shows again.
create table login_tickets (
    tenant_id uuid not null references tenants on delete cascade,
    ticket_id uuid not null,
    user_id uuid not null,
    workspace_id uuid,
    token_hash bytea not null,
    bound_to bytea not null,
    attempts integer not null default 0,
    expires_at timestamptz not null,
    primary key (tenant_id, ticket_id),
    foreign key (tenant_id, user_id) references users on delete cascade
);
create index login_tickets_by_user on login_tickets (tenant_id, user_id);

do $$
declare
    name text;
begin
    foreach name in array array['totp', 'recovery_codes', 'login_tickets'] loop
        execute format('alter table %I enable row level security', name);
        execute format($policy$create policy tenant on %I
            using (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid)
            with check (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid)$policy$, name);
    end loop;
end
$$;
grant select, insert, update, delete on totp, recovery_codes, login_tickets to geko_app;
