-- The steps of a lease over any number of windows, each one round trip and one transaction: the rows of the windows are locked
-- only while the server works, never while a busy client gets round to its commit. They don't wait for the disk: what a
-- crash of the server takes back is taken back from lease and window alike, and `settle_lease` is followed by a flush.
-- All are in plpgsql, which keeps its plans: a function in SQL that can't be inlined is planned at each call, which took
-- half of a settlement's time.
-- Rows are locked in one order everywhere: lease, turn, windows by (limit_id, subject, starts_at).

-- Acts as geko_app in a tenant until the transaction ends, so that Row Level Security holds as everywhere.
create function enter_tenant(uuid) returns void
language plpgsql
as $$
begin
    perform set_config('role', 'geko_app', true), set_config('geko.tenant_id', $1::text, true),
        set_config('synchronous_commit', 'off', true);
end
$$;

-- What a limit comes to now. running: for answers that run already.
create function amount_now(l quota_limits, running boolean) returns bigint
language sql stable
as $$
    select l.amount + case when l.raised_until > now() then l.raised_by else 0 end + case when running then l.grace else 0 end
$$;

-- Opens windows that don't exist yet. $1 tenant, $2 workspace, then arrays: $3 limits, $4 subjects, $5 starts, $6 ends,
-- $7 units, $8 scopes, $9 like-patterns of "endpoint/model" ('' where the scope is no model). A window opens with what the
-- ledger already holds for its time: it may overlap an older one, and a limit may be new. Settlements of the workspace wait
-- meanwhile, so that none is missed or counted twice.
create function open_windows(uuid, uuid, uuid[], text[], timestamptz[], timestamptz[], text[], text[], text[]) returns void
language plpgsql set search_path = public, pg_temp
as $function$
begin
    perform enter_tenant($1);
    perform from limit_windows w where w.tenant_id = $1 and w.limit_id = $2
    order by w.limit_id, w.subject, w.starts_at for update;
    insert into limit_windows (tenant_id, limit_id, subject, starts_at, ends_at, workspace_id, unit, used)
    select $1, h.limit_id, h.subject, h.starts_at, h.ends_at, $2, h.unit, coalesce((
        select sum(case h.unit when 'cost' then e.cost else e.tokens end)
        from usage_events e left join turns t on t.tenant_id = e.tenant_id and t.turn_id = e.turn_id
        where e.tenant_id = $1 and e.workspace_id = $2 and e.occurred_at >= h.starts_at and e.occurred_at < h.ends_at
            and case h.scope when 'member' then e.user_id::text = h.subject
                when 'key' then e.key_id::text = h.pattern
                when 'model' then t.endpoint || '/' || t.model like h.pattern
                else true end), 0)
    from unnest($3, $4, $5, $6, $7, $8, $9) as h (limit_id, subject, starts_at, ends_at, unit, scope, pattern)
    order by h.limit_id, h.subject, h.starts_at
    on conflict do nothing;
end
$function$;

-- Announces the thresholds that windows have passed, each once. refused: a turn found no room in them, which is 100 %.
create function alert_windows(uuid, uuid[], text[], timestamptz[], refused boolean) returns void
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    with passed as (
        select w.limit_id, w.subject, w.starts_at, max(a.threshold) as threshold, amount_now(l, false) as amount
        from unnest($2, $3, $4) as h (limit_id, subject, starts_at)
        join limit_windows w on w.tenant_id = $1 and w.limit_id = h.limit_id and w.subject = h.subject
            and w.starts_at = h.starts_at
        join quota_limits l on l.tenant_id = $1 and l.limit_id = h.limit_id
        cross join lateral unnest(l.alert_at) as a (threshold)
        where a.threshold > w.alerted and (refused or w.used::numeric * 100 >= amount_now(l, false)::numeric * a.threshold)
        group by w.limit_id, w.subject, w.starts_at, l.*
    ), noted as (
        update limit_windows w set alerted = p.threshold
        from passed p
        where w.tenant_id = $1 and w.limit_id = p.limit_id and w.subject = p.subject and w.starts_at = p.starts_at
            and w.alerted < p.threshold
        returning w.workspace_id, w.limit_id, w.subject, w.starts_at, w.ends_at, p.threshold, w.unit, w.used, p.amount
    )
    insert into quota_alerts (tenant_id, workspace_id, limit_id, subject, starts_at, ends_at, threshold, unit, used, amount)
    select $1, n.* from noted n
    on conflict do nothing;
end
$function$;

-- Starts a turn and its lease. $1 tenant, $2 workspace, $3 limits, $4 subjects, $5 starts (of the windows, in the order of their
-- locks), $6 need, $7 allowance (tokens), $8 need, $9 allowance (cost), $10 turn, $11 user, $12 conversation, $13 endpoint,
-- $14 model, $15 key, $16 instance, $17 now, $18 seconds, $19 what a million tokens of a prompt cost.
-- What the conversation held when its last turn ended is added to the need, whichever instance that was.
-- No row: a window is not open. limit_id null: granted; context: what was added. Else the limit that has no room, the
-- workspace's own first.
create function begin_lease(uuid, uuid, uuid[], text[], timestamptz[], bigint, bigint, bigint, bigint, uuid, uuid, text, text,
    text, uuid, uuid, timestamptz, double precision, bigint)
returns table (amount bigint, cost bigint, context bigint, limit_id uuid, used bigint, leased bigint, limited_to bigint,
    unit text, ends_at timestamptz)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
declare
    room record;
    context bigint := 0;
    need bigint := $6;
    need_cost bigint := $8;
begin
    perform enter_tenant($1);
    if $12 is not null then
        select t.context_tokens into context from turns t
        where t.tenant_id = $1 and t.workspace_id = $2 and t.user_id = $11 and t.conversation_id = $12
            and t.ended_at is not null and t.context_tokens > 0
        order by t.started_at desc limit 1;
        context := coalesce(context, 0);
        need := need + context;
        need_cost := need_cost + ceil(context::numeric * $19 / 1000000);
    end if;
    -- first of all: it waits for another running turn of its conversation, and must not hold a window then
    insert into turns (tenant_id, turn_id, workspace_id, user_id, conversation_id, endpoint, model, key_id, instance_id,
        limit_ids, subjects, window_starts, started_at)
    values ($1, $10, $2, $11, $12, $13, $14, $15, $16, $3, $4, $5, $17);
    select count(*) as windows,
        least(need + $7, min(r.room) filter (where r.unit = 'tokens')) as tokens,
        least(need_cost + $9, min(r.room) filter (where r.unit = 'cost')) as cost
    into room
    from (
        select w.unit, amount_now(l, false) - w.used - w.leased as room
        from limit_windows w left join quota_limits l on l.tenant_id = $1 and l.limit_id = w.limit_id
        where w.tenant_id = $1
            and (w.limit_id, w.subject, w.starts_at) in (select * from unnest($3, $4, $5))
        order by w.limit_id, w.subject, w.starts_at
        for update of w
    ) r;
    if room.windows < cardinality($3) or room.tokens < need or room.cost < need_cost then
        delete from turns t where t.tenant_id = $1 and t.turn_id = $10;
        if room.windows = cardinality($3) then
            return query
            select null::bigint, null::bigint, context, f.* from refuse_lease($1, $2, $3, $4, $5, need, need_cost) f;
        end if;
        return;
    end if;
    update limit_windows w set leased = w.leased + case w.unit when 'cost' then room.cost else room.tokens end
    where w.tenant_id = $1 and (w.limit_id, w.subject, w.starts_at) in (select * from unnest($3, $4, $5));
    insert into leases (tenant_id, turn_id, workspace_id, granted, granted_cost, instance_id, expires_at)
    values ($1, $10, $2, room.tokens, room.cost, $16, now() + make_interval(secs => $18));
    return query select room.tokens, room.cost, context, null::uuid, 0::bigint, 0::bigint, null::bigint, '', $17;
end
$function$;

-- The window that has no room, announced. Its rows are locked already.
create function refuse_lease(uuid, uuid, uuid[], text[], timestamptz[], bigint, bigint)
returns table (limit_id uuid, used bigint, leased bigint, limited_to bigint, unit text, ends_at timestamptz)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
declare
    tight record;
begin
    select w.limit_id, w.subject, w.starts_at, w.used, w.leased, amount_now(l, false) as amount, w.unit, w.ends_at into tight
    from limit_windows w join quota_limits l on l.tenant_id = $1 and l.limit_id = w.limit_id
    where w.tenant_id = $1 and (w.limit_id, w.subject, w.starts_at) in (select * from unnest($3, $4, $5))
        and amount_now(l, false) - w.used - w.leased < case w.unit when 'cost' then $7 else $6 end
    order by w.limit_id <> $2, w.ends_at desc, w.limit_id
    limit 1;
    perform alert_windows($1, array[tight.limit_id], array[tight.subject], array[tight.starts_at], true);
    return query select tight.limit_id, tight.used, tight.leased, tight.amount, tight.unit, tight.ends_at;
end
$function$;

-- $1 tenant, $2 turn, $3 need, $4 step (tokens), $5 need, $6 step (cost), $7 consumed tokens, $8 consumed cost, $9 seconds.
-- Takes up to need + step. Less than the need: the answer is cut, and the turn's state says so. No row: the lease is gone.
-- limit_id: the limit that gave less than was wanted. room: tokens that are free after it, null: no limit.
create function top_up_lease(uuid, uuid, bigint, bigint, bigint, bigint, bigint, bigint, double precision)
returns table (amount bigint, cost bigint, limit_id uuid, room bigint)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
declare
    held record;
    room record;
    tight record;
    more bigint;
    more_cost bigint;
begin
    perform enter_tenant($1);
    select t.workspace_id, t.limit_ids, t.subjects, t.window_starts into held
    from leases l join turns t on t.tenant_id = $1 and t.turn_id = $2
    where l.tenant_id = $1 and l.turn_id = $2
    for update of l;
    if not found then
        return;
    end if;
    select min(r.room) filter (where r.unit = 'tokens') as tokens, min(r.room) filter (where r.unit = 'cost') as cost
    into room
    from (
        select w.unit, amount_now(l, true) - w.used - w.leased as room
        from limit_windows w left join quota_limits l on l.tenant_id = $1 and l.limit_id = w.limit_id
        where w.tenant_id = $1
            and (w.limit_id, w.subject, w.starts_at) in (select * from unnest(held.limit_ids, held.subjects, held.window_starts))
        order by w.limit_id, w.subject, w.starts_at
        for update of w
    ) r;
    more := greatest(0, least($3 + $4, room.tokens)); -- least() passes over null, which is no limit
    more_cost := greatest(0, least($5 + $6, room.cost));
    if more > 0 or more_cost > 0 then
        update limit_windows w set leased = w.leased + case w.unit when 'cost' then more_cost else more end
        where w.tenant_id = $1
            and (w.limit_id, w.subject, w.starts_at) in (select * from unnest(held.limit_ids, held.subjects, held.window_starts));
    end if;
    update leases l set granted = l.granted + more, granted_cost = l.granted_cost + more_cost, consumed = $7,
        consumed_cost = $8, expires_at = now() + make_interval(secs => $9)
    where l.tenant_id = $1 and l.turn_id = $2;
    if more < $3 + $4 or more_cost < $5 + $6 then
        if more < $3 or more_cost < $5 then
            update turns t set state = 'cut' where t.tenant_id = $1 and t.turn_id = $2;
        end if;
        select w.limit_id, w.subject, w.starts_at into tight
        from limit_windows w join quota_limits l on l.tenant_id = $1 and l.limit_id = w.limit_id
        where w.tenant_id = $1
            and (w.limit_id, w.subject, w.starts_at) in (select * from unnest(held.limit_ids, held.subjects, held.window_starts))
            and amount_now(l, true) - w.used - w.leased <= 0
        order by w.limit_id <> held.workspace_id, w.ends_at desc, w.limit_id
        limit 1;
        -- not when only the step was cut short: what others lease may come back, and nobody was refused
        if found and (more < $3 or more_cost < $5) then
            perform alert_windows($1, array[tight.limit_id], array[tight.subject], array[tight.starts_at], true);
        end if;
        return query select more, more_cost, tight.limit_id, room.tokens - more;
    else
        return query select more, more_cost, null::uuid, room.tokens - more;
    end if;
end
$function$;

-- Holds more windows for a running turn: those of a limit that is new, or of a time zone that has changed. $1 tenant, $2 turn,
-- $3 limits, $4 subjects, $5 starts. What the turn holds already is passed over. No row: the lease is gone.
create function hold_windows(uuid, uuid, uuid[], text[], timestamptz[])
returns table (held integer)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
declare
    lease record;
    fresh record;
begin
    perform enter_tenant($1);
    select l.granted, l.granted_cost into lease from leases l where l.tenant_id = $1 and l.turn_id = $2 for update;
    if not found then
        return;
    end if;
    perform from turns t where t.tenant_id = $1 and t.turn_id = $2 for update;
    select array_agg(h.limit_id order by h.limit_id, h.subject, h.starts_at) as limit_ids,
        array_agg(h.subject order by h.limit_id, h.subject, h.starts_at) as subjects,
        array_agg(h.starts_at order by h.limit_id, h.subject, h.starts_at) as starts
    into fresh
    from unnest($3, $4, $5) as h (limit_id, subject, starts_at), turns t
    where t.tenant_id = $1 and t.turn_id = $2
        and (h.limit_id, h.subject, h.starts_at) not in (select * from unnest(t.limit_ids, t.subjects, t.window_starts))
        and exists (select from limit_windows w where w.tenant_id = $1 and w.limit_id = h.limit_id
            and w.subject = h.subject and w.starts_at = h.starts_at);
    if fresh.limit_ids is not null then
        perform from limit_windows w
        where w.tenant_id = $1 and (w.limit_id, w.subject, w.starts_at) in (
            select * from unnest(fresh.limit_ids, fresh.subjects, fresh.starts))
        order by w.limit_id, w.subject, w.starts_at for update;
        update limit_windows w
        set leased = w.leased + case w.unit when 'cost' then lease.granted_cost else lease.granted end
        where w.tenant_id = $1 and (w.limit_id, w.subject, w.starts_at) in (
            select * from unnest(fresh.limit_ids, fresh.subjects, fresh.starts));
        update turns t set limit_ids = t.limit_ids || fresh.limit_ids, subjects = t.subjects || fresh.subjects,
            window_starts = t.window_starts || fresh.starts
        where t.tenant_id = $1 and t.turn_id = $2;
    end if;
    return query select coalesce(cardinality(fresh.limit_ids), 0);
end
$function$;

-- The heartbeat of turns of one tenant. $1 tenant, $2 turns, $3 consumed tokens, $4 consumed cost, $5 instance, $6 seconds.
-- Those whose lease is gone, or another instance's by now, are missing in the reply.
create function extend_leases(uuid, uuid[], bigint[], bigint[], uuid, double precision)
returns table (turn_ids uuid[])
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    perform enter_tenant($1);
    perform from leases l where l.tenant_id = $1 and l.turn_id = any ($2) order by l.turn_id for update;
    return query
    with alive as (
        update leases l set consumed = b.consumed, consumed_cost = b.cost, expires_at = now() + make_interval(secs => $6)
        from unnest($2, $3, $4) as b (turn_id, consumed, cost)
        where l.tenant_id = $1 and l.turn_id = b.turn_id and l.instance_id is not distinct from $5
        returning l.turn_id
    ), started as (
        update turns t set state = 'running' from alive a
        where t.tenant_id = $1 and t.turn_id = a.turn_id and t.state = 'admitted'
    )
    select coalesce(array_agg(a.turn_id), '{}') from alive a;
end
$function$;

-- LibreChat has named the conversation of a turn, so it runs. $1 tenant, $2 turn, $3 conversation.
create function name_conversation(uuid, uuid, text)
returns table (turn_id uuid)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    perform enter_tenant($1);
    return query
    update turns t set conversation_id = $3, state = case t.state when 'admitted' then 'running' else t.state end
    where t.tenant_id = $1 and t.turn_id = $2
    returning t.turn_id;
end
$function$;

-- Ends a turn. $1 tenant, $2 turn, $3 outcome, $4 charges, $5 whether another instance recovers it. A turn that was recovered
-- and is settled by its own instance after all gets the recovered charges back with negative entries, because the ledger is
-- append-only. No row: it had been settled before, or does not exist.
create function settle_lease(uuid, uuid, text, jsonb, boolean default false)
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
begin
    perform enter_tenant($1);
    delete from leases l where l.tenant_id = $1 and l.turn_id = $2 returning l.granted, l.granted_cost
    into freed, freed_cost;
    select t.* into turn from turns t where t.tenant_id = $1 and t.turn_id = $2 for update;
    if turn.turn_id is null or turn.state = 'settled' or (turn.state = 'recovered' and $5) then
        return;
    end if;
    update turns t set state = case when $5 then 'recovered' else 'settled' end, outcome = $3, ended_at = now(),
        context_tokens = coalesce((select max(c.input_tokens + c.output_tokens)
            from jsonb_to_recordset($4) as c (input_tokens bigint, output_tokens bigint)), 0)
    where t.tenant_id = $1 and t.turn_id = $2;
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

-- Writes a turn's charges to the ledger and to its sums by day.
create function book_charges(turn turns, charges jsonb)
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
            and e.occurred_at = turn.started_at and e.source = 'recovered'
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
-- $3 seconds that the new lease lives, $4 rows. They are `lost` until `settle_lease` recovers them.
create function adopt_leases(uuid, timestamptz, double precision, integer)
returns table (tenant_id uuid, turn_id uuid, workspace_id uuid, user_id uuid, key_id uuid, conversation_id text, endpoint text,
    model text, started_at timestamptz, granted bigint, granted_cost bigint, consumed bigint, consumed_cost bigint)
language sql security definer set search_path = public, pg_temp
as $function$
    with expired as (
        select l.tenant_id, l.turn_id from leases l
        where l.expires_at < coalesce($2, now())
        order by l.expires_at limit $4
        for update skip locked
    ), taken as (
        update leases l set instance_id = $1, expires_at = greatest(now(), $2) + make_interval(secs => $3)
        from expired e where l.tenant_id = e.tenant_id and l.turn_id = e.turn_id
        returning l.*
    )
    update turns t set state = 'lost', instance_id = $1
    from taken k where t.tenant_id = k.tenant_id and t.turn_id = k.turn_id
    returning t.tenant_id, t.turn_id, t.workspace_id, t.user_id, t.key_id, t.conversation_id, t.endpoint, t.model, t.started_at,
        k.granted, k.granted_cost, k.consumed, k.consumed_cost
$function$;
revoke execute on function adopt_leases(uuid, timestamptz, double precision, integer) from public;
grant execute on function adopt_leases(uuid, timestamptz, double precision, integer) to geko_app;
