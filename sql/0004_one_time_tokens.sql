-- Links that work once: to set a new password, to confirm an e-mail address. Only the hash of the secret is kept.

create table one_time_tokens (
    tenant_id uuid not null references tenants on delete cascade,
    token_id uuid not null,
    user_id uuid not null,
    purpose text not null check (purpose ~ '^[a-z_]{1,40}$'),
    token_hash bytea not null,
    data jsonb not null default '{}',
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    primary key (tenant_id, token_id),
    unique (tenant_id, user_id, purpose),
    foreign key (tenant_id, user_id) references users on delete cascade
);

alter table one_time_tokens enable row level security;
create policy tenant on one_time_tokens
    using (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid)
    with check (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid);
grant select, insert, update, delete on one_time_tokens to geko_app;
