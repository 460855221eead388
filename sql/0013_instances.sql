-- Several instances of GEKO: who runs, how the others reach them, and which one reads an answer.

-- Of the whole installation, so it has no tenant and geko_app no right on it: only the functions below reach it.
-- url: how other instances reach this one; empty: they don't.
create table instances (
    instance_id uuid primary key,
    url text not null check (length(url) <= 300),
    started_at timestamptz not null default now(),
    seen_at timestamptz not null default now()
);
alter table instances enable row level security;

-- $1 this instance, $2 its address, $3 seconds after which a silent instance is taken for gone. Says that this instance
-- lives, forgets those that have been gone for an hour, and gives the others that live.
create function beat_instance(uuid, text, double precision) returns table (instance_id uuid, url text)
language plpgsql security definer set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    insert into instances (instance_id, url) values ($1, $2)
    on conflict (instance_id) do update set url = excluded.url, seen_at = now();
    delete from instances i using (
        select instance_id from instances where seen_at < now() - interval '1 hour'
        for update skip locked
    ) old where i.instance_id = old.instance_id;
    return query
    select i.instance_id, i.url from instances i
    where i.instance_id <> $1 and i.seen_at > now() - make_interval(secs => $3);
end
$function$;

-- An instance that stops says so.
create function leave_instances(uuid) returns void
language sql security definer set search_path = public, pg_temp
as $$
    delete from instances where instance_id = $1
$$;

-- $1 instance, $2 seconds. No row: it is gone.
create function live_instance(uuid, double precision) returns table (url text)
language sql stable security definer set search_path = public, pg_temp
as $$
    select url from instances where instance_id = $1 and seen_at > now() - make_interval(secs => $2)
$$;

revoke execute on function beat_instance(uuid, text, double precision), leave_instances(uuid),
    live_instance(uuid, double precision) from public;
grant execute on function beat_instance(uuid, text, double precision), leave_instances(uuid),
    live_instance(uuid, double precision) to geko_app;

-- $1 tenant, $2 workspace, $3 user, $4 conversation (null: the person's newest running turn), $5 seconds for which an
-- ended turn counts, $6 seconds after which a silent instance is taken for gone. The turn that runs or the one that ended
-- last, with the instance that reads it; url null: that one is gone. No row: there is no such turn.
create function find_turn(uuid, uuid, uuid, text, double precision, double precision)
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
                and instance_id is not null
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
