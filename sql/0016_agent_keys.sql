-- LibreChat's keys of its Agents API, one for each shadow account that has used it. sealed_key: encrypted by GEKO; the key
-- itself never leaves it. Ends with its shadow account.
create table agent_keys (
    tenant_id uuid not null references tenants on delete cascade,
    workspace_id uuid not null,
    user_id uuid not null,
    librechat_key_id text not null check (length(librechat_key_id) between 1 and 100),
    sealed_key text not null,
    created_at timestamptz not null default now(),
    primary key (tenant_id, workspace_id, user_id),
    foreign key (tenant_id, workspace_id, user_id) references shadow_accounts on delete cascade
);

alter table agent_keys enable row level security;
create policy tenant on agent_keys
    using (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid)
    with check (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid);

grant select, insert, update, delete on agent_keys to geko_app;
