-- Sign-in by identity providers.

alter table users add column if not exists email_verified_at timestamptz;

-- One row is a person's account at a provider, linked to theirs here. sealed_tokens: what the provider gave, encrypted
-- by GEKO. The issuer stands beside the provider's name, because a name may be given to another provider one day.
create table oauth_tokens (
    tenant_id uuid not null references tenants on delete cascade,
    user_id uuid not null,
    provider text not null check (provider ~ '^[a-z0-9-]{1,32}$'),
    issuer text not null check (length(issuer) between 1 and 512),
    subject text not null check (length(subject) between 1 and 255),
    email text not null check (length(email) <= 254),
    sealed_tokens text not null,
    linked_at timestamptz not null default now(),
    last_used_at timestamptz not null default now(),
    primary key (tenant_id, user_id, provider),
    unique (tenant_id, issuer, subject),
    foreign key (tenant_id, user_id) references users on delete cascade
);

alter table oauth_tokens enable row level security;
create policy tenant on oauth_tokens
    using (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid)
    with check (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid);
grant select, insert, update, delete on oauth_tokens to geko_app;

-- Whose account a provider's subject is, over all tenants; like login_emails only reached by functions.
create table oauth_subjects (
    issuer text not null,
    subject text not null,
    tenant_id uuid not null,
    user_id uuid not null,
    primary key (issuer, subject)
);
alter table oauth_subjects enable row level security;

-- States that have come back from a provider, until they expire: none counts twice. Nobody's tenant is known then.
create table oauth_used_states (
    state_hash bytea primary key check (length(state_hash) = 32),
    expires_at timestamptz not null
);
create index oauth_used_states_by_expiry on oauth_used_states (expires_at);
alter table oauth_used_states enable row level security;

-- Raises unique_violation when the subject is linked already, in any tenant.
create function claim_oauth_subject(claimed_issuer text, claimed_subject text, claimed_user_id uuid) returns void
language sql security definer set search_path = public, pg_temp
as $$
    insert into oauth_subjects (issuer, subject, tenant_id, user_id)
    values (claimed_issuer, claimed_subject, current_setting('geko.tenant_id')::uuid, claimed_user_id)
$$;

create function release_oauth_subject(released_issuer text, released_subject text) returns void
language sql security definer set search_path = public, pg_temp
as $$
    delete from oauth_subjects s
    where s.issuer = released_issuer and s.subject = released_subject
        and s.tenant_id = current_setting('geko.tenant_id')::uuid
$$;

create function find_oauth_subject(searched_issuer text, searched_subject text)
returns table (tenant_id uuid, user_id uuid)
language sql stable security definer set search_path = public, pg_temp
as $$
    select s.tenant_id, s.user_id from oauth_subjects s
    where s.issuer = searched_issuer and s.subject = searched_subject
$$;

-- True the first time. A state that expired is forgotten: GEKO refuses it by its time then.
create function use_oauth_state(used_hash bytea, used_until timestamptz) returns boolean
language plpgsql security definer set search_path = public, pg_temp
as $$
begin
    delete from oauth_used_states where expires_at < now() - interval '1 minute';
    insert into oauth_used_states (state_hash, expires_at) values (used_hash, used_until)
    on conflict (state_hash) do nothing;
    return found;
end
$$;

revoke execute on function claim_oauth_subject(text, text, uuid), release_oauth_subject(text, text),
    find_oauth_subject(text, text), use_oauth_state(bytea, timestamptz) from public;
grant execute on function claim_oauth_subject(text, text, uuid), release_oauth_subject(text, text),
    find_oauth_subject(text, text), use_oauth_state(bytea, timestamptz) to geko_app;
