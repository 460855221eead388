-- Limits that change while answers run: what is opened, counted and given back stays exact.

-- The same limit may hold from another day of the month or week on as well. A workspace's or key's own one begins on the 1st.
drop index quota_limits_once;
create unique index quota_limits_once on quota_limits (tenant_id, workspace_id, scope, subject, period, unit, start_day);

-- A glob "endpoint/model" as LIKE patterns of the two: a model's name may contain slashes, an endpoint's does not.
create function model_is_like(endpoint text, model text, pattern text) returns boolean
language sql immutable
as $$
    select endpoint like split_part(pattern, '/', 1) and model like substr(pattern, strpos(pattern, '/') + 1)
$$;

-- The glob, in which only * is special, as a LIKE pattern.
create function like_pattern(glob text) returns text
language sql immutable
as $$
    select replace(replace(replace(replace(glob, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%')
$$;

-- Windows of a workspace are opened while none of its turns is being charged. It is taken before any lock of a window, and
-- shared by all who charge.
create function lock_charges(workspace uuid, opening boolean) returns void
language plpgsql
as $$
begin
    if opening then
        perform pg_advisory_xact_lock(7164775, hashtext(workspace::text));
    else
        perform pg_advisory_xact_lock_shared(7164775, hashtext(workspace::text));
    end if;
end
$$;

create function is_open(tenant uuid, one_limit uuid, whose text, since timestamptz, until timestamptz) returns boolean
language sql stable
as $$
    select exists (select from limit_windows w where w.tenant_id = tenant and w.limit_id = one_limit and w.subject = whose
        and w.starts_at = since and w.ends_at >= until)
$$;

-- As in sql/0012, but the ledger is only read for windows that are missing. One that is there and ends too early gets its end
-- moved, and counts anew: the tenant's time zone was one in which the same start has an earlier end.
create or replace function open_windows(uuid, uuid, uuid[], text[], timestamptz[], timestamptz[], text[], text[], text[])
returns void
language plpgsql set search_path = public, pg_temp
as $function$
begin
    perform enter_tenant($1);
    if not exists (select from unnest($3, $4, $5, $6) as h (limit_id, subject, starts_at, ends_at)
            where not is_open($1, h.limit_id, h.subject, h.starts_at, h.ends_at)) then
        return;
    end if;
    perform lock_charges($2, true);
    insert into limit_windows as w (tenant_id, limit_id, subject, starts_at, ends_at, workspace_id, unit, used)
    select $1, h.limit_id, h.subject, h.starts_at, h.ends_at, $2, h.unit, coalesce((
        select sum(case h.unit when 'cost' then e.cost else e.tokens end)
        from usage_events e left join turns t on t.tenant_id = e.tenant_id and t.turn_id = e.turn_id
        where e.tenant_id = $1 and e.workspace_id = $2 and e.occurred_at >= h.starts_at and e.occurred_at < h.ends_at
            and case h.scope when 'member' then e.user_id::text = h.subject
                when 'key' then e.key_id::text = h.pattern
                when 'model' then model_is_like(t.endpoint, t.model, h.pattern)
                else true end), 0)
    from unnest($3, $4, $5, $6, $7, $8, $9) as h (limit_id, subject, starts_at, ends_at, unit, scope, pattern)
    where not is_open($1, h.limit_id, h.subject, h.starts_at, h.ends_at)
    order by h.limit_id, h.subject, h.starts_at
    on conflict (tenant_id, limit_id, subject, starts_at) do update set ends_at = excluded.ends_at, used = excluded.used
    where w.ends_at < excluded.ends_at;
end
$function$;

-- What is charged counts in the windows of limits, too, that came while the turn ran and that it does not hold yet: opened by
-- another turn, they have not found it in the ledger. Fires for every entry of the ledger, whoever writes it.
create function charge_new_limits() returns trigger
language plpgsql set search_path = public, pg_temp
as $function$
declare
    turn record;
    fresh record;
begin
    for turn in
        select t.tenant_id, t.workspace_id, t.user_id, t.key_id, t.endpoint, t.model, t.limit_ids, t.subjects, b.occurred_at,
            sum(b.tokens) as tokens, sum(b.cost) as cost
        from booked b join turns t on t.tenant_id = b.tenant_id and t.turn_id = b.turn_id
        group by t.tenant_id, t.turn_id, b.occurred_at
    loop
        perform lock_charges(turn.workspace_id, false);
        select array_agg(w.limit_id) as limit_ids, array_agg(w.subject) as subjects into fresh
        from quota_limits l
        join limit_windows w on w.tenant_id = l.tenant_id and w.limit_id = l.limit_id
            and w.subject = case l.scope when 'member' then turn.user_id::text else '' end
            and w.starts_at <= turn.occurred_at and turn.occurred_at < w.ends_at
        where l.tenant_id = turn.tenant_id and l.workspace_id = turn.workspace_id and l.limit_id <> all (turn.limit_ids)
            and case l.scope when 'member' then l.subject in ('*', turn.user_id::text)
                when 'key' then l.subject = turn.key_id::text
                when 'model' then model_is_like(turn.endpoint, turn.model, like_pattern(l.subject))
                else true end;
        if fresh.limit_ids is not null then
            -- those it holds as well: they are locked next, and all must be in one order
            perform from limit_windows w
            where w.tenant_id = turn.tenant_id and w.workspace_id = turn.workspace_id
                and (w.limit_id, w.subject) in (
                    select * from unnest(turn.limit_ids || fresh.limit_ids, turn.subjects || fresh.subjects))
                and w.starts_at <= turn.occurred_at and turn.occurred_at < w.ends_at
            order by w.limit_id, w.subject, w.starts_at for update;
            update limit_windows w
            set used = w.used + case w.unit when 'cost' then turn.cost else turn.tokens end
            where w.tenant_id = turn.tenant_id
                and (w.limit_id, w.subject) in (select * from unnest(fresh.limit_ids, fresh.subjects))
                and w.starts_at <= turn.occurred_at and turn.occurred_at < w.ends_at;
        end if;
    end loop;
    return null;
end
$function$;
create trigger charge_new_limits after insert on usage_events referencing new table as booked
    for each statement execute function charge_new_limits();

-- As in sql/0012. Where the limit has changed since the caller found no room, the whole step is to be tried again.
create or replace function refuse_lease(uuid, uuid, uuid[], text[], timestamptz[], bigint, bigint)
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
    if not found then
        raise serialization_failure using message = 'a limit has changed meanwhile';
    end if;
    perform alert_windows($1, array[tight.limit_id], array[tight.subject], array[tight.starts_at], true);
    return query select tight.limit_id, tight.used, tight.leased, tight.amount, tight.unit, tight.ends_at;
end
$function$;

-- Gives back what a running turn holds beyond what it needs, as far as its windows hold more than they have: a limit was
-- lowered, or a new one counts. $1 tenant, $2 turn, $3 tokens and $4 cost that it can spare. No row: the lease is gone.
create function give_back(uuid, uuid, bigint, bigint)
returns table (amount bigint, cost bigint)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
declare
    held record;
    room record;
    less bigint;
    less_cost bigint;
begin
    perform enter_tenant($1);
    select t.limit_ids, t.subjects, t.window_starts, l.granted, l.granted_cost into held
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
    less := greatest(0, least($3, held.granted, coalesce(-room.tokens, 0)));
    less_cost := greatest(0, least($4, held.granted_cost, coalesce(-room.cost, 0)));
    if less > 0 or less_cost > 0 then
        update limit_windows w set leased = w.leased - case w.unit when 'cost' then less_cost else less end
        where w.tenant_id = $1
            and (w.limit_id, w.subject, w.starts_at) in (select * from unnest(held.limit_ids, held.subjects, held.window_starts));
        update leases l set granted = l.granted - less, granted_cost = l.granted_cost - less_cost
        where l.tenant_id = $1 and l.turn_id = $2;
    end if;
    return query select less, less_cost;
end
$function$;

-- Refuses what nobody may be charged by: so that sums stay within what a bigint holds.
alter table model_prices
    add check (greatest(input, output, coalesce(cached, 0), coalesce(reasoning, 0)) <= 1000000000000000);
