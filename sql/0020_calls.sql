-- The LLM side: model calls that LibreChat makes through GEKO have leases and charges of their own. A call is a row of turns,
-- too, so that its lease lives, expires, and is taken over like any other. Stop older instances before this is applied: they
-- would take calls for messages.

-- call_kind: null for a chat message; else what the call is for: chat, title, memory, summary, embedding, image, audio, ...
-- of_conversation: a call's conversation; its conversation_id is null, because any number of them run in one.
-- parent_turn_id: the message that a call was made for, if that is known. message_id: LibreChat's id of the answer.
-- metered_by_calls: the message's answer comes through here, so its calls are charged, and it is not. seen_tokens: what its
-- stream told of, seen_estimated: as far as GEKO knows. cut_by: the limit that ended one of its calls.
alter table turns
    add column call_kind text check (length(call_kind) between 1 and 20),
    add column of_conversation text,
    add column parent_turn_id uuid,
    add column message_id text,
    add column metered_by_calls boolean not null default false,
    add column seen_tokens bigint,
    add column seen_estimated boolean,
    add column cut_by uuid,
    add check (call_kind is null or conversation_id is null);
create index turns_by_parent on turns (tenant_id, parent_turn_id) where parent_turn_id is not null;
create index turns_of_messages on turns (tenant_id, workspace_id, started_at) where metered_by_calls;

-- Which tenant an account of LibreChat belongs to; calls of models name nothing else. $1 the account's id.
create function find_shadow_account(text)
returns table (tenant_id uuid, workspace_id uuid, user_id uuid)
language sql stable security definer set search_path = public, pg_temp
as $function$
    select s.tenant_id, s.workspace_id, s.user_id from shadow_accounts s where s.librechat_user_id = $1
$function$;
create index shadow_accounts_by_librechat_id on shadow_accounts (librechat_user_id);

-- Whose workspace it is that pays for calls without an account.
create function find_workspace_tenant(uuid) returns table (tenant_id uuid)
language sql stable security definer set search_path = public, pg_temp
as $function$
    select w.tenant_id from workspaces w where w.workspace_id = $1 and w.archived_at is null
$function$;
revoke execute on function find_shadow_account(text), find_workspace_tenant(uuid) from public;
grant execute on function find_shadow_account(text), find_workspace_tenant(uuid) to geko_app;

-- The message that a call is made for. $1 tenant, $2 workspace, $3 user, $4 conversation (null: unknown), $5 LibreChat's id of the
-- answer (null: unknown). A request of the Agents API has no conversation that GEKO knows before it is over; its first call, known
-- by the form of its id, takes the oldest one without calls, and the others follow.
-- unnamed: there is none yet, but a message whose conversation has no name so far, so that asking again in a moment may find it.
-- No row: there is no message.
create function find_call_parent(uuid, uuid, uuid, text, text)
returns table (turn_id uuid, key_id uuid, key_models text[], unnamed boolean)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
declare
    message uuid;
begin
    perform enter_tenant($1);
    select t.turn_id into message from turns t
    where t.tenant_id = $1 and t.workspace_id = $2 and t.user_id = $3 and t.ended_at is null and t.call_kind is null
        and (t.conversation_id = $4 or t.message_id = $5);
    if message is null and ($5 like 'chatcmpl-%' or $5 like 'resp\_%') then
        update turns t set message_id = $5
        where t.tenant_id = $1 and t.turn_id = (
            select f.turn_id from turns f
            where f.tenant_id = $1 and f.workspace_id = $2 and f.user_id = $3 and f.ended_at is null and f.call_kind is null
                and f.conversation_id is null and f.message_id is null
            order by f.started_at limit 1 for update skip locked)
        returning t.turn_id into message;
    elsif message is null then
        return query
        select null::uuid, null::uuid, null::text[], true from turns t
        where t.tenant_id = $1 and t.workspace_id = $2 and t.user_id = $3 and t.conversation_id is null and t.call_kind is null
            and t.message_id is null and t.ended_at is null
            and t.started_at > now() - interval '5 seconds' -- a request of the Agents API never gets a name
        limit 1;
        if found then
            return;
        end if;
        select t.turn_id into message from turns t
        where t.tenant_id = $1 and t.workspace_id = $2 and t.user_id = $3 and t.conversation_id = $4
            and t.ended_at > now() - interval '1 hour'
        order by t.started_at desc limit 1;
    end if;
    return query
    select t.turn_id, t.key_id, k.models, false from turns t
    left join api_keys k on k.tenant_id = $1 and k.key_id = t.key_id
    where t.tenant_id = $1 and t.turn_id = message;
end
$function$;

-- Starts a call and its lease. $1 tenant, $2 workspace, $3 limits, $4 subjects, $5 starts, $6 need, $7 allowance (tokens), $8 need,
-- $9 allowance (cost), $10 call, $11 user, $12 conversation, $13 provider, $14 model, $15 key, $16 instance, $17 now, $18 seconds,
-- $19 kind, $20 its message's turn, $21 LibreChat's id of the answer, $22 whether it makes (a part of) that answer.
-- The first call of an answer takes what its message has leased, and all are charged in its place from then on.
-- As begin_lease: no row: a window is not open; limit_id null: granted.
create function begin_call(uuid, uuid, uuid[], text[], timestamptz[], bigint, bigint, bigint, bigint, uuid, uuid, text, text,
    text, uuid, uuid, timestamptz, double precision, text, uuid, text, boolean)
returns table (amount bigint, cost bigint, limit_id uuid, used bigint, leased bigint, limited_to bigint, unit text,
    ends_at timestamptz)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
declare
    room record;
    message turns;
    freed bigint := 0;
    freed_cost bigint := 0;
begin
    perform enter_tenant($1);
    if $20 is not null and $22 then
        select l.granted, l.granted_cost into freed, freed_cost from leases l
        where l.tenant_id = $1 and l.turn_id = $20 for update;
        update turns t set metered_by_calls = true, state = case t.state when 'admitted' then 'running' else t.state end
        where t.tenant_id = $1 and t.turn_id = $20 and (t.ended_at is null or t.metered_by_calls)
        returning t.* into message;
        if freed > 0 or freed_cost > 0 then
            perform from limit_windows w
            where w.tenant_id = $1 and (w.limit_id, w.subject, w.starts_at) in (
                select * from unnest(message.limit_ids || $3, message.subjects || $4, message.window_starts || $5))
            order by w.limit_id, w.subject, w.starts_at for update;
            update limit_windows w set leased = w.leased - case w.unit when 'cost' then freed_cost else freed end
            where w.tenant_id = $1 and (w.limit_id, w.subject, w.starts_at) in (
                select * from unnest(message.limit_ids, message.subjects, message.window_starts));
            update leases l set granted = 0, granted_cost = 0 where l.tenant_id = $1 and l.turn_id = $20;
        end if;
    end if;
    insert into turns (tenant_id, turn_id, workspace_id, user_id, of_conversation, endpoint, model, key_id, instance_id,
        limit_ids, subjects, window_starts, started_at, call_kind, parent_turn_id, message_id)
    values ($1, $10, $2, $11, $12, $13, $14, $15, $16, $3, $4, $5, $17, $19, $20, $21);
    select count(*) as windows,
        least($6 + $7, min(r.room) filter (where r.unit = 'tokens')) as tokens,
        least($8 + $9, min(r.room) filter (where r.unit = 'cost')) as cost
    into room
    from (
        -- a call of an answer that runs already may use the grace
        select w.unit, amount_now(l, message.metered_by_calls is true) - w.used - w.leased as room
        from limit_windows w left join quota_limits l on l.tenant_id = $1 and l.limit_id = w.limit_id
        where w.tenant_id = $1
            and (w.limit_id, w.subject, w.starts_at) in (select * from unnest($3, $4, $5))
        order by w.limit_id, w.subject, w.starts_at
        for update of w
    ) r;
    if room.windows < cardinality($3) or room.tokens < $6 or room.cost < $8 then
        delete from turns t where t.tenant_id = $1 and t.turn_id = $10;
        if room.windows = cardinality($3) then
            return query select null::bigint, null::bigint, f.* from refuse_lease($1, $2, $3, $4, $5, $6, $8) f;
        end if;
        return;
    end if;
    update limit_windows w set leased = w.leased + case w.unit when 'cost' then room.cost else room.tokens end
    where w.tenant_id = $1 and (w.limit_id, w.subject, w.starts_at) in (select * from unnest($3, $4, $5));
    insert into leases (tenant_id, turn_id, workspace_id, granted, granted_cost, instance_id, expires_at)
    values ($1, $10, $2, room.tokens, room.cost, $16, now() + make_interval(secs => $18));
    return query select room.tokens, room.cost, null::uuid, 0::bigint, 0::bigint, null::bigint, '', $17;
end
$function$;

-- A call was cut: its message says so, and by which limit. $1 tenant, $2 the message's turn, $3 limit (null: unknown).
create function note_cut(uuid, uuid, uuid) returns void
language plpgsql set search_path = public, pg_temp
as $function$
begin
    perform enter_tenant($1);
    update turns t set state = case t.state when 'lost' then 'lost' else 'cut' end, cut_by = coalesce($3, t.workspace_id)
    where t.tenant_id = $1 and t.turn_id = $2 and t.ended_at is null;
end
$function$;

-- Whether a message is charged by its calls, and the limit that cut one of them. $1 tenant, $2 turn.
create function calls_of_turn(uuid, uuid)
returns table (metered_by_calls boolean, cut_by uuid)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    perform enter_tenant($1);
    return query select t.metered_by_calls, t.cut_by from turns t where t.tenant_id = $1 and t.turn_id = $2;
end
$function$;

-- A message that is charged by its calls counts as a turn in the sums by day all the same.
create function count_message(turn turns) returns void
language plpgsql set search_path = public, pg_temp
as $function$
begin
    insert into usage_days as d (tenant_id, workspace_id, day, user_id, key_id, endpoint, model, kind, turns)
    select turn.tenant_id, turn.workspace_id, (turn.started_at at time zone t.time_zone)::date, turn.user_id,
        coalesce(turn.key_id, '00000000-0000-0000-0000-000000000000'), turn.endpoint, turn.model, 'chat', 1
    from tenants t where t.tenant_id = turn.tenant_id
    on conflict (tenant_id, workspace_id, day, user_id, key_id, endpoint, model, kind) do update
    set turns = d.turns + 1;
end
$function$;

-- As in 0012; a message that is charged by its calls needs no more: it gets what it asks for, and room is -1.
create or replace function top_up_lease(uuid, uuid, bigint, bigint, bigint, bigint, bigint, bigint, double precision)
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
    select t.workspace_id, t.limit_ids, t.subjects, t.window_starts, t.metered_by_calls into held
    from leases l join turns t on t.tenant_id = $1 and t.turn_id = $2
    where l.tenant_id = $1 and l.turn_id = $2
    for update of l;
    if not found then
        return;
    end if;
    if held.metered_by_calls then
        update leases l set consumed = $7, consumed_cost = $8, expires_at = now() + make_interval(secs => $9)
        where l.tenant_id = $1 and l.turn_id = $2;
        return query select $3 + $4, $5 + $6, null::uuid, -1::bigint;
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

-- Whether a message has calls that make its answer. $1 tenant, $2 turn.
create function has_answer_calls(uuid, uuid) returns boolean
language sql stable set search_path = public, pg_temp
as $function$
    select exists (select from turns c where c.tenant_id = $1 and c.parent_turn_id = $2 and c.call_kind in ('chat', 'summary'))
$function$;

-- A message that has not ended is charged by its calls from now on. $1 tenant, $2 turn.
create function charge_by_calls(uuid, uuid) returns void
language sql set search_path = public, pg_temp
as $function$
    update turns t set metered_by_calls = true where t.tenant_id = $1 and t.turn_id = $2 and t.ended_at is null
$function$;

-- What a message's stream has told of that none of its calls on the LLM side has been: those of another agent or endpoint go
-- to their provider directly, and would cost nothing beside a small call that comes through here. One estimated charge, or none.
-- Of what the stream reports everything counts, of what it lets one guess the text only. Both sides may be guessed, so what is
-- missing has to be a quarter of the calls, and 200 tokens more.
create function charges_beside(turn turns, charges jsonb) returns jsonb
language sql stable set search_path = public, pg_temp
as $function$
    with seen as (
        select coalesce(sum(case when c.estimated then 0 else c.input_tokens end + c.output_tokens + c.reasoning_tokens), 0)
                as tokens,
            sum(c.input_tokens + c.output_tokens + c.reasoning_tokens) as all_tokens, sum(c.cost) as cost
        from jsonb_to_recordset(charges) as c (input_tokens bigint, output_tokens bigint, reasoning_tokens bigint, cost bigint,
            estimated boolean)
    ), told as (
        select coalesce(sum(greatest(
            (select sum(e.tokens) from usage_events e
                where e.tenant_id = c.tenant_id and e.turn_id = c.turn_id and e.occurred_at = c.started_at),
            (select greatest(l.granted, l.consumed) from leases l where l.tenant_id = c.tenant_id and l.turn_id = c.turn_id),
            0)), 0) as tokens
        from turns c
        where c.tenant_id = turn.tenant_id and c.parent_turn_id = turn.turn_id and c.call_kind in ('chat', 'summary')
    )
    select case when s.tokens <= t.tokens * 1.25 + 200 then '[]' else jsonb_build_array(jsonb_build_object(
        'run_id', 'geko', 'seq', -4, 'kind', 'chat', 'model', turn.model, 'provider', '', 'input_tokens', 0,
        'output_tokens', (s.tokens - t.tokens)::bigint, 'cached_tokens', 0, 'reasoning_tokens', 0,
        'cost', (coalesce(s.cost, 0) * (s.tokens - t.tokens) / s.all_tokens)::bigint, 'estimated', true,
        'source', 'estimate')) end
    from seen s, told t
$function$;

-- As in 0018; a message that is charged by its calls notes what its stream told of, and is charged what they have missed. $16 to $20 are of a call whose start a
-- crash of the server took back, and with it that its message is charged by it: kind (null: a message), conversation, its
-- message's turn, LibreChat's id of the answer, whether it makes it.
drop function settle_lease(uuid, uuid, text, jsonb, boolean, uuid, uuid, text, text, text, uuid, timestamptz, uuid[], text[],
    timestamptz[]);
create function settle_lease(uuid, uuid, text, jsonb, boolean, uuid, uuid, text, text, text, uuid, timestamptz, uuid[], text[],
    timestamptz[], text, text, uuid, text, boolean)
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
    charges jsonb := $4;
    context constant bigint := coalesce((select max(c.input_tokens + c.output_tokens)
        from jsonb_to_recordset($4) as c (input_tokens bigint, output_tokens bigint)), 0);
begin
    perform enter_tenant($1);
    delete from leases l where l.tenant_id = $1 and l.turn_id = $2 returning l.granted, l.granted_cost
    into freed, freed_cost;
    select t.* into turn from turns t where t.tenant_id = $1 and t.turn_id = $2 for update;
    if turn.turn_id is null then
        insert into turns as t (tenant_id, turn_id, workspace_id, user_id, conversation_id, endpoint, model, key_id, started_at,
            limit_ids, subjects, window_starts, state, outcome, ended_at, context_tokens, call_kind, of_conversation,
            parent_turn_id, message_id, metered_by_calls)
        select $1, $2, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, case when $5 then 'recovered' else 'settled' end, $3, now(),
            case when $16 is null then context else 0 end, $16, $17, $18, $19, $16 is null and has_answer_calls($1, $2)
        where exists (select from workspaces w where w.tenant_id = $1 and w.workspace_id = $6)
        on conflict do nothing
        returning t.* into turn;
        if turn.turn_id is null then
            return;
        end if;
        turn.state := 'lost';
        if $20 then
            perform charge_by_calls($1, $18);
        end if;
    elsif turn.state = 'settled' or (turn.state = 'recovered' and $5) then
        return;
    else
        update turns t set state = case when $5 then 'recovered' else 'settled' end, outcome = $3, ended_at = now(),
            context_tokens = case when t.call_kind is null then context else 0 end,
            conversation_id = case when t.call_kind is null then coalesce(t.conversation_id, $8) end
        where t.tenant_id = $1 and t.turn_id = $2;
        turn.conversation_id := coalesce(turn.conversation_id, $8);
    end if;
    if turn.metered_by_calls then
        if turn.state <> 'recovered' and $3 <> 'refused' then
            perform count_message(turn);
        end if;
        update turns t set seen_tokens = coalesce(s.tokens, 0), seen_estimated = coalesce(s.estimated, false)
        from (
            select sum(c.input_tokens + c.output_tokens + c.reasoning_tokens) as tokens, bool_or(c.estimated) as estimated
            from jsonb_to_recordset($4) as c (input_tokens bigint, output_tokens bigint, reasoning_tokens bigint,
                estimated boolean)
        ) s
        where t.tenant_id = $1 and t.turn_id = $2;
        charges := case when $5 or $3 = 'refused' or turn.state = 'recovered' then '[]'
            else charges_beside(turn, charges) end;
        turn.call_kind := 'chat'; -- so that it is not counted again below
    end if;
    if turn.state = 'recovered' and recovery_knows_better(turn, charges) then
        return query select 0::bigint, 0::bigint;
        return;
    end if;
    if not exists (select from usage_events e where e.tenant_id = $1 and e.turn_id = $2
            and e.occurred_at = turn.started_at) then
        turn.state := 'lost'; -- nothing was charged yet, so the turn is still to be counted
    end if;
    select * into booked from book_charges(turn, charges);
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

-- As in 0018; $19 to $23 as $16 to $20 of settle_lease.
drop function restore_lease(uuid, uuid, uuid, uuid, text, text, text, uuid, timestamptz, uuid[], text[], timestamptz[], bigint,
    bigint, bigint, bigint, uuid, double precision);
create function restore_lease(uuid, uuid, uuid, uuid, text, text, text, uuid, timestamptz, uuid[], text[], timestamptz[], bigint,
    bigint, bigint, bigint, uuid, double precision, text, text, uuid, text, boolean)
returns table (restored boolean)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    perform enter_tenant($1);
    insert into turns (tenant_id, turn_id, workspace_id, user_id, conversation_id, endpoint, model, key_id, started_at,
        instance_id, limit_ids, subjects, window_starts, state, call_kind, of_conversation, parent_turn_id, message_id,
        metered_by_calls)
    select $1, $2, $3, $4, $5, $6, $7, $8, $9, $17, $10, $11, $12, 'running', $19, $20, $21, $22,
        $19 is null and has_answer_calls($1, $2)
    where exists (select from workspaces w where w.tenant_id = $1 and w.workspace_id = $3)
        and cardinality($10) = (select count(*) from limit_windows w
            where w.tenant_id = $1 and (w.limit_id, w.subject, w.starts_at) in (select * from unnest($10, $11, $12)))
    on conflict do nothing;
    if not found then
        return query select false;
        return;
    end if;
    if $23 then
        perform charge_by_calls($1, $21);
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

-- As in 0018; a charge may name another endpoint than its turn did: the one that has answered. Calls are no turns, and what is
-- charged for one is of its kind, whoever says how much.
create or replace function book_charges(turn turns, charges jsonb)
returns table (tokens bigint, cost bigint)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    return query
    with charge as (
        select c.run_id, c.seq, coalesce(turn.call_kind, c.kind) as kind, c.model, c.provider, c.input_tokens, c.output_tokens,
            c.cached_tokens, c.reasoning_tokens, coalesce(c.cost, 0) as cost, c.estimated, c.source, coalesce(c.endpoint, turn.endpoint) as endpoint
        from jsonb_to_recordset(charges) as c (run_id text, seq integer, kind text, model text, provider text,
            input_tokens bigint, output_tokens bigint, cached_tokens bigint, reasoning_tokens bigint, cost bigint,
            estimated boolean, source text, endpoint text)
        union all
        select 'geko', -1000000 - row_number() over (order by e.run_id, e.seq), e.kind, e.model, e.provider,
            -e.input_tokens, -e.output_tokens, -e.cached_tokens, -e.reasoning_tokens, -e.cost, e.estimated, e.source, e.endpoint
        from usage_events e
        where turn.state = 'recovered' and e.tenant_id = turn.tenant_id and e.turn_id = turn.turn_id
            and e.occurred_at = turn.started_at and (e.source = 'recovered' or e.run_id = 'recovery')
    ), booked as (
        insert into usage_events (tenant_id, turn_id, workspace_id, user_id, key_id, conversation_id, endpoint, occurred_at,
            run_id, seq, kind, model, provider, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost,
            estimated, source)
        select turn.tenant_id, turn.turn_id, turn.workspace_id, turn.user_id, turn.key_id,
            coalesce(turn.conversation_id, turn.of_conversation), c.endpoint, turn.started_at, c.run_id, c.seq,
            c.kind, c.model, c.provider, c.input_tokens, c.output_tokens, c.cached_tokens, c.reasoning_tokens, c.cost, c.estimated, c.source
        from charge c
        on conflict do nothing
        returning kind, endpoint, model, input_tokens, output_tokens, cached_tokens, reasoning_tokens, tokens, cost, estimated
    ), day as (
        insert into usage_days as d (tenant_id, workspace_id, day, user_id, key_id, endpoint, model, kind, turns, calls,
            input_tokens, output_tokens, cached_tokens, reasoning_tokens, tokens, estimated_tokens, cost)
        select turn.tenant_id, turn.workspace_id, (turn.started_at at time zone t.time_zone)::date, turn.user_id,
            coalesce(turn.key_id, '00000000-0000-0000-0000-000000000000'), s.endpoint, s.model, s.kind, s.turns, s.calls,
            s.input_tokens, s.output_tokens, s.cached_tokens, s.reasoning_tokens, s.tokens, s.estimated_tokens, s.cost
        from tenants t, (
            select b.endpoint, b.model, b.kind,
                case when turn.call_kind is null and turn.state <> 'recovered' and row_number() over (
                    order by b.model <> turn.model, b.model, b.kind) = 1 then 1 else 0 end as turns,
                sum(case when b.tokens < 0 then -1 else 1 end) as calls,
                sum(b.input_tokens) as input_tokens, sum(b.output_tokens) as output_tokens,
                sum(b.cached_tokens) as cached_tokens, sum(b.reasoning_tokens) as reasoning_tokens, sum(b.tokens) as tokens,
                coalesce(sum(b.tokens) filter (where b.estimated), 0) as estimated_tokens, sum(b.cost) as cost
            from booked b group by b.endpoint, b.model, b.kind
        ) s
        where t.tenant_id = turn.tenant_id
        order by s.endpoint, s.model, s.kind
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

-- As in 0014: calls are no turns, and what they use is not counted twice.
create or replace function usage_now(uuid, uuid)
returns table (windows jsonb, amounts jsonb, turns bigint, consumed bigint)
language plpgsql set search_path = public, pg_temp
as $function$
begin
    perform enter_tenant($1);
    return query select
        (select coalesce(jsonb_agg(jsonb_build_array(w.limit_id, w.subject, extract(epoch from w.starts_at), w.used,
            greatest(w.leased, 0)) order by w.limit_id, w.subject), '[]')
        from limit_windows w where w.tenant_id = $1 and w.workspace_id = $2 and w.ends_at > now()),
        (select coalesce(jsonb_object_agg(l.limit_id, amount_now(l, false)), '{}')
        from quota_limits l where l.tenant_id = $1 and l.workspace_id = $2),
        count(*) filter (where t.call_kind is null),
        coalesce(sum(l.consumed) filter (where not t.metered_by_calls), 0)::bigint
    from leases l join turns t on t.tenant_id = l.tenant_id and t.turn_id = l.turn_id
    where l.tenant_id = $1 and l.workspace_id = $2;
end
$function$;

-- As in 0013, for messages only.
create or replace function find_turn(uuid, uuid, uuid, text, double precision, double precision)
returns table (turn_id uuid, instance_id uuid, running boolean, url text)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    perform set_config('role', 'geko_app', true), set_config('geko.tenant_id', $1::text, true);
    if $4 is null then
        return query
        select t.turn_id, t.instance_id, true, i.url
        from (
            select turn_id, instance_id from turns
            where tenant_id = $1 and workspace_id = $2 and user_id = $3 and ended_at is null
                and call_kind is null and instance_id is not null
            order by started_at desc limit 1
        ) t left join lateral live_instance(t.instance_id, $6) i on true;
        return;
    end if;
    return query
    select t.turn_id, t.instance_id, t.running, i.url
    from (
        select turn_id, instance_id, true as running from turns
        where tenant_id = $1 and workspace_id = $2 and user_id = $3 and conversation_id = $4 and ended_at is null
        union all
        (select turn_id, instance_id, false from turns
        where tenant_id = $1 and workspace_id = $2 and user_id = $3 and conversation_id = $4
            and outcome in ('done', 'aborted', 'cut', 'failed') and ended_at > now() - make_interval(secs => $5)
        order by started_at desc limit 1)
        order by running desc limit 1
    ) t left join lateral live_instance(t.instance_id, $6) i on true
    where t.instance_id is not null;
end
$function$;
