-- A tenant that changes its time zone opens a window that overlaps the old one. An answer that ran across the change is
-- charged to both: each window holds all that the ledger has for its time, as it does when it opens (0002). Its lease is
-- given back to the window that gave it.

create or replace function settle_lease(uuid, uuid, text, jsonb, uuid default null)
returns table (used bigint)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    perform set_config('role', 'geko_app', true), set_config('geko.tenant_id', $1::text, true),
        set_config('synchronous_commit', 'off', true);
    if $5 is not null then
        return query select * from settle_lease_of_key($1, $2, $3, $4, $5);
        return;
    end if;
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
        leased = w.leased
            - case when w.starts_at = t.window_starts_at then coalesce((select granted from lease), 0) else 0 end
    from turn t
    where w.tenant_id = $1 and w.workspace_id = t.workspace_id
        and w.starts_at <= t.started_at and t.started_at < w.ends_at
    returning w.used;
end
$function$;

create or replace function settle_lease_of_key(uuid, uuid, text, jsonb, uuid)
returns table (used bigint)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
declare
    freed bigint := 0;
    turn turns;
    charged bigint;
begin
    delete from leases l where l.tenant_id = $1 and l.turn_id = $2 returning l.granted into freed;
    freed := coalesce(freed, 0);
    update turns t set state = $3, ended_at = now()
    where t.tenant_id = $1 and t.turn_id = $2 and t.key_id = $5 and t.state in ('running', 'lost')
    returning t.* into turn;
    if not found then
        return;
    end if;
    with charge as (
        select * from jsonb_to_recordset($4) as c (run_id text, seq integer, kind text, model text,
            provider text, input_tokens bigint, output_tokens bigint, cached_tokens bigint, reasoning_tokens bigint,
            estimated boolean, source text)
        union all
        select 'geko', -2, 'correction', turn.model, '', 0, -turn.recovered_tokens, 0, 0, true, 'recovered'
        where turn.recovered_tokens > 0
    ), booked as (
        insert into usage_events (tenant_id, turn_id, workspace_id, user_id, conversation_id, occurred_at,
            run_id, seq, kind, model, provider, input_tokens, output_tokens, cached_tokens, reasoning_tokens,
            estimated, source, key_id)
        select $1, $2, turn.workspace_id, turn.user_id, turn.conversation_id, turn.started_at,
            c.run_id, c.seq, c.kind, c.model, c.provider, c.input_tokens, c.output_tokens, c.cached_tokens,
            c.reasoning_tokens, c.estimated, c.source, $5
        from charge c
        on conflict do nothing
        returning tokens
    )
    select coalesce(sum(b.tokens), 0) into charged from booked b;
    return query
    update quota_windows w set used = w.used + charged,
        leased = w.leased - case when w.starts_at = turn.window_starts_at then freed else 0 end
    where w.tenant_id = $1 and w.workspace_id = turn.workspace_id
        and w.starts_at <= turn.started_at and turn.started_at < w.ends_at
    returning w.used;
    update key_windows w set used = w.used + charged,
        leased = w.leased - case when w.starts_at = turn.window_starts_at then freed else 0 end
    where w.tenant_id = $1 and w.key_id = $5
        and w.starts_at <= turn.started_at and turn.started_at < w.ends_at;
end
$function$;
