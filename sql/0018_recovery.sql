-- What is charged survives crashes: of the server, whose last fraction of a second of starts may be gone (begin_lease does not
-- wait for the disk), and of instances, whose turns another one settles by what LibreChat knows (docs/recovery.md).

-- Ends a turn. $1 tenant, $2 turn, $3 outcome, $4 charges, $5 whether another instance recovers it. Then what its start was:
-- $6 workspace, $7 user, $8 conversation, $9 endpoint, $10 model, $11 key, $12 time, $13 limits, $14 subjects, $15 starts. A turn
-- whose start a crash of the server took back is written again and charged all the same.
-- A turn that was recovered and is settled by its own instance after all is corrected to what that one says, unless the
-- recovery knows it better: reports that its own instance has not seen, or reports for all of it where that one estimates. The
-- recovery's own entries are taken back with negative ones, because the ledger is append-only.
-- No row: it had been settled before, or its workspace is gone.
drop function settle_lease(uuid, uuid, text, jsonb, boolean);
create function settle_lease(uuid, uuid, text, jsonb, boolean, uuid, uuid, text, text, text, uuid, timestamptz, uuid[], text[],
    timestamptz[])
returns table (tokens bigint, cost bigint)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
declare
    freed bigint := 0;
    freed_cost bigint := 0;
    turn turns;
    booked record;
    passes boolean;
    context constant bigint := coalesce((select max(c.input_tokens + c.output_tokens)
        from jsonb_to_recordset($4) as c (input_tokens bigint, output_tokens bigint)), 0);
begin
    perform enter_tenant($1);
    delete from leases l where l.tenant_id = $1 and l.turn_id = $2 returning l.granted, l.granted_cost
    into freed, freed_cost;
    select t.* into turn from turns t where t.tenant_id = $1 and t.turn_id = $2 for update;
    if turn.turn_id is null then
        insert into turns as t (tenant_id, turn_id, workspace_id, user_id, conversation_id, endpoint, model, key_id, started_at,
            limit_ids, subjects, window_starts, state, outcome, ended_at, context_tokens)
        select $1, $2, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, case when $5 then 'recovered' else 'settled' end, $3, now(),
            context
        where exists (select from workspaces w where w.tenant_id = $1 and w.workspace_id = $6)
        on conflict do nothing
        returning t.* into turn;
        if turn.turn_id is null then
            return;
        end if;
        turn.state := 'lost';
    elsif turn.state = 'settled' or (turn.state = 'recovered' and $5) then
        return;
    else
        update turns t set state = case when $5 then 'recovered' else 'settled' end, outcome = $3, ended_at = now(),
            context_tokens = context, conversation_id = coalesce(t.conversation_id, $8)
        where t.tenant_id = $1 and t.turn_id = $2;
        turn.conversation_id := coalesce(turn.conversation_id, $8);
        if turn.state = 'recovered' and recovery_knows_better(turn, $4) then
            return query select 0::bigint, 0::bigint;
            return;
        end if;
        if not exists (select from usage_events e where e.tenant_id = $1 and e.turn_id = $2
                and e.occurred_at = turn.started_at) then
            turn.state := 'lost'; -- nothing was charged yet, so the turn is still to be counted
        end if;
    end if;
    select * into booked from book_charges(turn, $4);
    select bool_or(r.passes) into passes
    from (
        select (w.used + case w.unit when 'cost' then booked.cost else booked.tokens end)::numeric * 100 >= (
                select min(a.threshold) from unnest(l.alert_at) as a (threshold) where a.threshold > w.alerted
            )::numeric * amount_now(l, false) as passes
        from limit_windows w left join quota_limits l on l.tenant_id = $1 and l.limit_id = w.limit_id
        where w.tenant_id = $1 and w.workspace_id = turn.workspace_id
            and (w.limit_id, w.subject) in (select * from unnest(turn.limit_ids, turn.subjects))
            and w.starts_at <= turn.started_at and turn.started_at < w.ends_at
        order by w.limit_id, w.subject, w.starts_at
        for update of w
    ) r;
    update limit_windows w
    set used = w.used + case w.unit when 'cost' then booked.cost else booked.tokens end,
        leased = w.leased - case when (w.limit_id, w.subject, w.starts_at) not in (
            select * from unnest(turn.limit_ids, turn.subjects, turn.window_starts)) then 0
            when w.unit = 'cost' then coalesce(freed_cost, 0) else coalesce(freed, 0) end
    where w.tenant_id = $1 and w.workspace_id = turn.workspace_id
        and (w.limit_id, w.subject) in (select * from unnest(turn.limit_ids, turn.subjects))
        and w.starts_at <= turn.started_at and turn.started_at < w.ends_at;
    if passes and (booked.tokens > 0 or booked.cost > 0) then
        perform alert_windows($1, turn.limit_ids, turn.subjects, turn.window_starts, false);
    end if;
    return query select booked.tokens, booked.cost;
end
$function$;

-- Whether the charges of a recovered turn are better than those that its own instance brings late. What the recovery made up
-- itself has the run 'recovery'; reports of the provider keep their own, so that both name them alike.
create function recovery_knows_better(turn turns, charges jsonb) returns boolean
language sql stable set search_path = public, pg_temp
as $function$
    with booked as (
        select e.run_id, e.seq, e.estimated from usage_events e
        where e.tenant_id = turn.tenant_id and e.turn_id = turn.turn_id and e.occurred_at = turn.started_at
    ), late as (
        select c.run_id, c.seq, c.estimated from jsonb_to_recordset(charges) as c (run_id text, seq integer, estimated boolean)
    )
    select exists (select from booked b where not b.estimated and b.run_id <> 'recovery'
            and (b.run_id, b.seq) not in (select l.run_id, l.seq from late l))
        or (exists (select from booked) and not exists (select from booked b where b.estimated)
            and exists (select from late l where l.estimated))
$function$;

-- Takes a lease again whose start a crash of the server took back, and goes on as if nothing had been. $1 to $9 as $2, $6 to
-- $12 of settle_lease after the tenant; $10 limits, $11 subjects, $12 starts, $13 granted tokens, $14 cost, $15 consumed tokens,
-- $16 cost, $17 instance, $18 seconds. false: the turn is there, so its lease is gone for another reason.
create function restore_lease(uuid, uuid, uuid, uuid, text, text, text, uuid, timestamptz, uuid[], text[], timestamptz[], bigint,
    bigint, bigint, bigint, uuid, double precision)
returns table (restored boolean)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    perform enter_tenant($1);
    insert into turns (tenant_id, turn_id, workspace_id, user_id, conversation_id, endpoint, model, key_id, started_at,
        instance_id, limit_ids, subjects, window_starts, state)
    select $1, $2, $3, $4, $5, $6, $7, $8, $9, $17, $10, $11, $12, 'running'
    where exists (select from workspaces w where w.tenant_id = $1 and w.workspace_id = $3)
        and cardinality($10) = (select count(*) from limit_windows w
            where w.tenant_id = $1 and (w.limit_id, w.subject, w.starts_at) in (select * from unnest($10, $11, $12)))
    on conflict do nothing;
    if not found then
        return query select false;
        return;
    end if;
    perform from limit_windows w
    where w.tenant_id = $1 and (w.limit_id, w.subject, w.starts_at) in (select * from unnest($10, $11, $12))
    order by w.limit_id, w.subject, w.starts_at for update;
    update limit_windows w set leased = w.leased + case w.unit when 'cost' then $14 else $13 end
    where w.tenant_id = $1 and (w.limit_id, w.subject, w.starts_at) in (select * from unnest($10, $11, $12));
    insert into leases (tenant_id, turn_id, workspace_id, granted, granted_cost, consumed, consumed_cost, instance_id, expires_at)
    values ($1, $2, $3, $13, $14, $15, $16, $17, now() + make_interval(secs => $18));
    return query select true;
end
$function$;

-- As in 0012_lease_functions.sql; a late settlement takes back all that the recovery made up, whoever it named as its source.
create or replace function book_charges(turn turns, charges jsonb)
returns table (tokens bigint, cost bigint)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    return query
    with charge as (
        select c.run_id, c.seq, c.kind, c.model, c.provider, c.input_tokens, c.output_tokens, c.cached_tokens,
            c.reasoning_tokens, coalesce(c.cost, 0) as cost, c.estimated, c.source
        from jsonb_to_recordset(charges) as c (run_id text, seq integer, kind text, model text, provider text,
            input_tokens bigint, output_tokens bigint, cached_tokens bigint, reasoning_tokens bigint, cost bigint,
            estimated boolean, source text)
        union all
        select 'geko', -1000000 - row_number() over (order by e.run_id, e.seq), e.kind, e.model, e.provider,
            -e.input_tokens, -e.output_tokens, -e.cached_tokens, -e.reasoning_tokens, -e.cost, e.estimated, e.source
        from usage_events e
        where turn.state = 'recovered' and e.tenant_id = turn.tenant_id and e.turn_id = turn.turn_id
            and e.occurred_at = turn.started_at and (e.source = 'recovered' or e.run_id = 'recovery')
    ), booked as (
        insert into usage_events (tenant_id, turn_id, workspace_id, user_id, key_id, conversation_id, endpoint, occurred_at,
            run_id, seq, kind, model, provider, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost,
            estimated, source)
        select turn.tenant_id, turn.turn_id, turn.workspace_id, turn.user_id, turn.key_id, turn.conversation_id,
            turn.endpoint, turn.started_at, c.run_id, c.seq, c.kind, c.model, c.provider, c.input_tokens,
            c.output_tokens, c.cached_tokens, c.reasoning_tokens, c.cost, c.estimated, c.source
        from charge c
        on conflict do nothing
        returning kind, model, input_tokens, output_tokens, cached_tokens, reasoning_tokens, tokens, cost, estimated
    ), day as (
        insert into usage_days as d (tenant_id, workspace_id, day, user_id, key_id, endpoint, model, kind, turns, calls,
            input_tokens, output_tokens, cached_tokens, reasoning_tokens, tokens, estimated_tokens, cost)
        select turn.tenant_id, turn.workspace_id, (turn.started_at at time zone t.time_zone)::date, turn.user_id,
            coalesce(turn.key_id, '00000000-0000-0000-0000-000000000000'), turn.endpoint, s.model, s.kind, s.turns, s.calls,
            s.input_tokens, s.output_tokens, s.cached_tokens, s.reasoning_tokens, s.tokens, s.estimated_tokens, s.cost
        from tenants t, (
            select b.model, b.kind,
                case when turn.state <> 'recovered' and row_number() over (order by b.model <> turn.model, b.model, b.kind) = 1
                    then 1 else 0 end as turns, sum(case when b.tokens < 0 then -1 else 1 end) as calls,
                sum(b.input_tokens) as input_tokens, sum(b.output_tokens) as output_tokens,
                sum(b.cached_tokens) as cached_tokens, sum(b.reasoning_tokens) as reasoning_tokens, sum(b.tokens) as tokens,
                coalesce(sum(b.tokens) filter (where b.estimated), 0) as estimated_tokens, sum(b.cost) as cost
            from booked b group by b.model, b.kind
        ) s
        where t.tenant_id = turn.tenant_id
        order by s.model, s.kind
        on conflict (tenant_id, workspace_id, day, user_id, key_id, endpoint, model, kind) do update
        set turns = d.turns + excluded.turns, calls = d.calls + excluded.calls, input_tokens = d.input_tokens + excluded.input_tokens,
            output_tokens = d.output_tokens + excluded.output_tokens,
            cached_tokens = d.cached_tokens + excluded.cached_tokens,
            reasoning_tokens = d.reasoning_tokens + excluded.reasoning_tokens, tokens = d.tokens + excluded.tokens,
            estimated_tokens = d.estimated_tokens + excluded.estimated_tokens, cost = d.cost + excluded.cost
    )
    select coalesce(sum(b.tokens), 0)::bigint, coalesce(sum(b.cost), 0)::bigint from booked b;
end
$function$;

-- Takes the turns of vanished instances over, those first that expired first, of all tenants. $1 instance, $2 time (null: now),
-- $3 seconds that the new lease lives, $4 rows. They are `lost` until `settle_lease` recovers them. owner: who had it before.
drop function adopt_leases(uuid, timestamptz, double precision, integer);
create function adopt_leases(uuid, timestamptz, double precision, integer)
returns table (tenant_id uuid, turn_id uuid, workspace_id uuid, user_id uuid, key_id uuid, conversation_id text, endpoint text,
    model text, started_at timestamptz, granted bigint, granted_cost bigint, consumed bigint, consumed_cost bigint, owner uuid)
language sql security definer set search_path = public, pg_temp
as $function$
    with expired as (
        select l.tenant_id, l.turn_id, l.instance_id from leases l
        where l.expires_at < coalesce($2, now())
        order by l.expires_at limit $4
        for update skip locked
    ), taken as (
        update leases l set instance_id = $1, expires_at = greatest(now(), $2) + make_interval(secs => $3)
        from expired e where l.tenant_id = e.tenant_id and l.turn_id = e.turn_id
        returning l.*, e.instance_id as owner
    )
    update turns t set state = 'lost', instance_id = $1
    from taken k where t.tenant_id = k.tenant_id and t.turn_id = k.turn_id
    returning t.tenant_id, t.turn_id, t.workspace_id, t.user_id, t.key_id, t.conversation_id, t.endpoint, t.model, t.started_at,
        k.granted, k.granted_cost, k.consumed, k.consumed_cost, k.owner
$function$;
revoke execute on function adopt_leases(uuid, timestamptz, double precision, integer) from public;
grant execute on function adopt_leases(uuid, timestamptz, double precision, integer) to geko_app;
