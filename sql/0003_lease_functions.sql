-- The steps of a lease as functions, so that each is one round trip and one transaction: the row of the quota window is
-- locked only while the server works, never while a busy client gets round to its commit.
-- Each acts as geko_app in its tenant, so Row Level Security holds as in every other transaction. They don't wait for the
-- disk: what a crash of the server takes back is taken back from lease and window alike, and `settle` is followed by a
-- flush that holds no lock.

-- $1 tenant, $2 workspace, $3 window start, $4 need, $5 allowance, $6 turn, $7 user, $8 conversation, $9 endpoint,
-- $10 model, $11 seconds. No row: the window is not open. amount null: it does not fit.
create function begin_lease(uuid, uuid, timestamptz, bigint, bigint, uuid, uuid, text, text, text, double precision)
returns table (used bigint, leased bigint, token_limit bigint, ends_at timestamptz, amount bigint)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    perform set_config('role', 'geko_app', true), set_config('geko.tenant_id', $1::text, true),
        set_config('synchronous_commit', 'off', true);
    return query
    with room as (
        select w.used, w.leased, w.ends_at, q.token_limit
        from quota_windows w
        left join workspace_quotas q on q.tenant_id = w.tenant_id and q.workspace_id = w.workspace_id
        where w.tenant_id = $1 and w.workspace_id = $2 and w.starts_at = $3
        for update of w
    ), offer as (
        select *, case when token_limit is null then $4::bigint + $5::bigint
            else least($4::bigint + $5::bigint, token_limit - used - leased) end as amount
        from room
    ), taken as (
        update quota_windows w set leased = w.leased + o.amount
        from offer o
        where w.tenant_id = $1 and w.workspace_id = $2 and w.starts_at = $3 and o.amount >= $4::bigint
        returning o.amount, o.ends_at
    ), turn as (
        insert into turns (tenant_id, turn_id, workspace_id, user_id, conversation_id, endpoint, model,
            window_starts_at, started_at)
        select $1, $6, $2, $7, $8, $9, $10, $3::timestamptz,
            least(greatest(now(), $3::timestamptz), ends_at - interval '1 microsecond')
        from taken
    ), lease as (
        insert into leases (tenant_id, turn_id, workspace_id, window_starts_at, granted, expires_at)
        select $1, $6, $2, $3::timestamptz, amount, now() + make_interval(secs => $11)
        from taken
    )
    select o.used, o.leased, o.token_limit, o.ends_at, t.amount from offer o left join taken t on true;
end
$function$;

-- $1 tenant, $2 turn, $3 step, $4 consumed, $5 seconds. No row: the lease is gone.
create function top_up_lease(uuid, uuid, bigint, bigint, double precision)
returns table (amount bigint)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    perform set_config('role', 'geko_app', true), set_config('geko.tenant_id', $1::text, true),
        set_config('synchronous_commit', 'off', true);
    return query
    with lease as (
        select workspace_id, window_starts_at from leases where tenant_id = $1 and turn_id = $2 for update
    ), room as (
        select w.used, w.leased, q.token_limit
        from lease l
        join quota_windows w
            on w.tenant_id = $1 and w.workspace_id = l.workspace_id and w.starts_at = l.window_starts_at
        left join workspace_quotas q on q.tenant_id = w.tenant_id and q.workspace_id = w.workspace_id
        for update of w
    ), offer as (
        select case when token_limit is null then $3::bigint
            else greatest(0, least($3::bigint, token_limit - used - leased)) end as amount
        from room
    ), taken as (
        update quota_windows w set leased = w.leased + o.amount
        from offer o, lease l
        where w.tenant_id = $1 and w.workspace_id = l.workspace_id and w.starts_at = l.window_starts_at
            and o.amount > 0
    )
    update leases l set granted = l.granted + o.amount, consumed = $4, expires_at = now() + make_interval(secs => $5)
    from offer o where l.tenant_id = $1 and l.turn_id = $2
    returning o.amount;
end
$function$;

-- $1 tenant, $2 turn, $3 consumed, $4 seconds. No row: the lease is gone.
create function extend_lease(uuid, uuid, bigint, double precision)
returns table (turn_id uuid)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    perform set_config('role', 'geko_app', true), set_config('geko.tenant_id', $1::text, true),
        set_config('synchronous_commit', 'off', true);
    return query
    update leases set consumed = $3, expires_at = now() + make_interval(secs => $4)
    where tenant_id = $1 and turn_id = $2
    returning turn_id;
end
$function$;

-- $1 tenant, $2 turn, $3 conversation.
create function name_conversation(uuid, uuid, text)
returns table (turn_id uuid)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    perform set_config('role', 'geko_app', true), set_config('geko.tenant_id', $1::text, true),
        set_config('synchronous_commit', 'off', true);
    return query
    update turns set conversation_id = $3 where tenant_id = $1 and turn_id = $2 returning turn_id;
end
$function$;

-- $1 tenant, $2 turn, $3 state, $4 charges. A turn that was taken for lost and charged by its last heartbeat gets that
-- charge back with a negative entry, because the ledger is append-only. No row: the turn had been settled before.
create function settle_lease(uuid, uuid, text, jsonb)
returns table (used bigint)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    perform set_config('role', 'geko_app', true), set_config('geko.tenant_id', $1::text, true),
        set_config('synchronous_commit', 'off', true);
    return query
    with lease as (
        delete from leases where tenant_id = $1 and turn_id = $2 returning granted
    ), turn as (
        update turns set state = $3, ended_at = now()
        where tenant_id = $1 and turn_id = $2 and state in ('running', 'lost') and (select count(*) from lease) >= 0
        returning workspace_id, user_id, conversation_id, model, window_starts_at, started_at, recovered_tokens
    ), charge as (
        select * from jsonb_to_recordset($4) as c (run_id text, seq integer, kind text, model text,
            provider text, input_tokens bigint, output_tokens bigint, cached_tokens bigint, reasoning_tokens bigint,
            estimated boolean, source text)
        union all
        select 'geko', -2, 'correction', model, '', 0, -recovered_tokens, 0, 0, true, 'recovered'
        from turn where recovered_tokens > 0
    ), booked as (
        insert into usage_events (tenant_id, turn_id, workspace_id, user_id, conversation_id, occurred_at,
            run_id, seq, kind, model, provider, input_tokens, output_tokens, cached_tokens, reasoning_tokens,
            estimated, source)
        select $1, $2, t.workspace_id, t.user_id, t.conversation_id, t.started_at,
            c.run_id, c.seq, c.kind, c.model, c.provider, c.input_tokens, c.output_tokens, c.cached_tokens,
            c.reasoning_tokens, c.estimated, c.source
        from turn t cross join charge c
        on conflict do nothing
        returning tokens
    )
    update quota_windows w set used = w.used + coalesce((select sum(tokens) from booked), 0),
        leased = w.leased - coalesce((select granted from lease), 0)
    from turn t
    where w.tenant_id = $1 and w.workspace_id = t.workspace_id and w.starts_at = t.window_starts_at
    returning w.used;
end
$function$;
