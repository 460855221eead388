-- Alerts of quotas: which thresholds are announced and when, to whom (webhooks and mail), and the deliveries with their
-- attempts. quota_alerts is the outbox that the lease functions fill; any instance takes from it and delivers.

-- What an alert says of its limit, which may be gone when it is delivered. refused: a turn found no room.
-- delivered_at: when it was handed to those who want it.
alter table quota_alerts
    add column scope text not null default 'workspace',
    add column limit_subject text not null default '',
    add column period text not null default 'month',
    add column refused boolean not null default false;
-- once for each threshold of a window, and again when the limit has another amount by then
drop index quota_alerts_once;
create unique index quota_alerts_once on quota_alerts (tenant_id, limit_id, subject, starts_at, threshold, amount);
create index quota_limits_raised on quota_limits (raised_until) where raised_until is not null;

-- Announces the thresholds that windows have passed, each once, also those that are passed together with a higher one.
-- refused: a turn found no room in them, which is 100 %. Of a limit of nothing only 100 % is told.
create or replace function alert_windows(uuid, uuid[], text[], timestamptz[], refused boolean) returns void
language sql set search_path = public, pg_temp
as $function$
    with passed as (
        select distinct w.limit_id, w.subject, w.starts_at, a.threshold, amount_now(l, false) as amount, l.scope, l.period,
            coalesce(nullif(w.subject, ''), l.subject) as whose
        from unnest($2, $3, $4) as h (limit_id, subject, starts_at)
        join limit_windows w on w.tenant_id = $1 and w.limit_id = h.limit_id and w.subject = h.subject
            and w.starts_at = h.starts_at
        join quota_limits l on l.tenant_id = $1 and l.limit_id = h.limit_id
        cross join lateral unnest(l.alert_at) as a (threshold)
        where a.threshold > w.alerted and amount_now(l, false) is not null
            and ($5 or w.used::numeric * 100 >= amount_now(l, false)::numeric * a.threshold)
            and (amount_now(l, false) > 0 or a.threshold = 100)
    ), noted as (
        update limit_windows w set alerted = p.threshold
        from (select limit_id, subject, starts_at, max(threshold) as threshold from passed group by 1, 2, 3) p
        where w.tenant_id = $1 and w.limit_id = p.limit_id and w.subject = p.subject and w.starts_at = p.starts_at
            and w.alerted < p.threshold
        returning w.workspace_id, w.limit_id, w.subject, w.starts_at, w.ends_at, w.unit, w.used
    )
    insert into quota_alerts (tenant_id, workspace_id, limit_id, subject, starts_at, ends_at, threshold, unit, used, amount,
        scope, limit_subject, period, refused, created_at)
    -- not now(): that is when the transaction began, and one that began earlier may pass the higher threshold
    select $1, n.workspace_id, n.limit_id, n.subject, n.starts_at, n.ends_at, p.threshold, n.unit, n.used, p.amount,
        p.scope, p.whose, p.period, $5, (select clock_timestamp())
    from noted n join passed p using (limit_id, subject, starts_at)
    order by n.limit_id, n.subject, n.starts_at, p.threshold
    on conflict do nothing
$function$;

-- A limit has another amount: what its use has fallen below may be announced again, what it has passed is announced now.
-- It first waits for the settlements that have its windows; those that come later see the new amount.
create function alert_limit(of_tenant uuid, of_limit uuid) returns void
language plpgsql set search_path = public, pg_temp
as $function$
declare
    held record;
begin
    perform from limit_windows w where w.tenant_id = of_tenant and w.limit_id = of_limit and w.ends_at > now()
    order by w.limit_id, w.subject, w.starts_at for update;
    with passed as (
        select w.subject, w.starts_at, coalesce(max(a.threshold) filter (
            where w.used::numeric * 100 >= amount_now(l, false)::numeric * a.threshold), 0) as threshold
        from limit_windows w join quota_limits l on l.tenant_id = of_tenant and l.limit_id = of_limit
        cross join lateral unnest(l.alert_at) as a (threshold)
        where w.tenant_id = of_tenant and w.limit_id = of_limit and w.ends_at > now()
        group by w.subject, w.starts_at
    )
    update limit_windows w set alerted = p.threshold from passed p
    where w.tenant_id = of_tenant and w.limit_id = of_limit and w.subject = p.subject and w.starts_at = p.starts_at
        and w.alerted > p.threshold;
    select array_agg(w.limit_id) as limit_ids, array_agg(w.subject) as subjects, array_agg(w.starts_at) as starts into held
    from limit_windows w where w.tenant_id = of_tenant and w.limit_id = of_limit and w.ends_at > now();
    if held.limit_ids is not null then
        perform alert_windows(of_tenant, held.limit_ids, held.subjects, held.starts, false);
    end if;
end
$function$;

create function alert_changed_limit() returns trigger
language plpgsql set search_path = public, pg_temp
as $function$
begin
    perform alert_limit(new.tenant_id, new.limit_id);
    return null;
end
$function$;
-- Deferred: it locks windows that every turn wants, so it runs in the commit and not while a busy client gets round to it.
create constraint trigger alert after insert or update on quota_limits deferrable initially deferred
    for each row execute function alert_changed_limit();

-- Temporary raises end without anybody's doing. Announces what is passed by that; for all tenants.
create function alert_ended_raises() returns void
language plpgsql security definer set search_path = public, pg_temp
as $function$
declare
    ended record;
begin
    for ended in select l.tenant_id, l.limit_id from quota_limits l
        where l.raised_until between now() - interval '1 day' and now() order by l.limit_id
    loop
        perform alert_limit(ended.tenant_id, ended.limit_id);
    end loop;
end
$function$;

-- Who is told: an address on the web, or by mail the owners and admins of the workspace. workspace_id null: of every
-- workspace of the tenant. secret: sealed. failing_since: the first failure since the last success.
create table webhooks (
    tenant_id uuid not null references tenants on delete cascade,
    webhook_id uuid not null,
    workspace_id uuid,
    channel text not null check (channel in ('webhook', 'mail')),
    url text check (length(url) <= 2000),
    secret text,
    description text not null default '' check (length(description) <= 200),
    events text[] not null,
    enabled boolean not null default true,
    disabled_reason text check (disabled_reason in ('failing', 'gone')),
    failing_since timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (tenant_id, webhook_id),
    foreign key (tenant_id, workspace_id) references workspaces on delete cascade,
    check ((channel = 'webhook') = (url is not null) and (url is null) = (secret is null))
);
create index webhooks_by_workspace on webhooks (tenant_id, workspace_id);

-- One event on its way to one of them; its id is the same at every attempt, and so is its payload.
-- claimed_until: an instance sends it now. A claim that ran out is that of an instance that died: it is sent again.
create table webhook_deliveries (
    tenant_id uuid not null references tenants on delete cascade,
    delivery_id uuid not null,
    webhook_id uuid not null,
    alert_id uuid,
    workspace_id uuid,
    seq bigint not null generated always as identity,
    event text not null,
    payload text not null,
    state text not null default 'pending' check (state in ('pending', 'delivered', 'failed')),
    attempts integer not null default 0,
    claimed_until timestamptz,
    next_attempt_at timestamptz not null default now(),
    last_attempt_at timestamptz,
    last_status integer,
    last_error text,
    created_at timestamptz not null default now(),
    ended_at timestamptz,
    primary key (tenant_id, delivery_id),
    foreign key (tenant_id, webhook_id) references webhooks on delete cascade
);
create index webhook_deliveries_due on webhook_deliveries (next_attempt_at) where state = 'pending';
create index webhook_deliveries_of on webhook_deliveries (tenant_id, webhook_id, seq);
create unique index webhook_deliveries_once on webhook_deliveries (tenant_id, webhook_id, alert_id);
create index webhook_deliveries_old on webhook_deliveries (ended_at) where ended_at is not null;

do $$
declare
    name text;
begin
    foreach name in array array['webhooks', 'webhook_deliveries'] loop
        execute format('alter table %I enable row level security', name);
        execute format($policy$create policy tenant on %I
            using (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid)
            with check (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid)$policy$, name);
    end loop;
end
$$;
grant select, insert, update, delete on webhooks to geko_app;
grant select, insert, update on webhook_deliveries to geko_app;

-- Wakes the delivering of all instances.
create function announce_alerts() returns trigger
language plpgsql set search_path = public, pg_temp
as $$
begin
    perform pg_notify('geko_invalidation', 'alerts *');
    return null;
end
$$;
create trigger announce after insert on quota_alerts for each row execute function announce_alerts();
create trigger announce after insert on webhook_deliveries for each row execute function announce_alerts();

-- Takes alerts out of the outbox, of all tenants, oldest first. They come again after some seconds unless delivered_at is set.
-- $1 most, $2 seconds
create function take_alerts(integer, double precision) returns setof quota_alerts
language sql security definer set search_path = public, pg_temp
as $function$
    with due as (
        select a.tenant_id, a.alert_id from quota_alerts a
        where a.delivered_at is null and a.next_attempt_at <= now()
        order by a.next_attempt_at, a.threshold limit $1
        for update skip locked
    ), taken as (
        update quota_alerts a set attempts = a.attempts + 1, next_attempt_at = now() + make_interval(secs => $2)
        from due d where a.tenant_id = d.tenant_id and a.alert_id = d.alert_id
        returning a.*
    )
    select * from taken order by created_at, limit_id, subject, threshold
$function$;

-- Takes deliveries that are due, of all tenants: one at a time for each receiver, oldest first, so that a slow one holds up
-- nobody else and gets its events in their order. $1 most, $2 seconds until another instance may send them again.
create function take_deliveries(integer, double precision)
returns table (tenant_id uuid, delivery_id uuid, webhook_id uuid, workspace_id uuid, event text, payload text, attempts integer,
    created_at timestamptz, channel text, url text, secret text)
language sql security definer set search_path = public, pg_temp
as $function$
    with first as (
        select distinct on (d.tenant_id, d.webhook_id) d.tenant_id, d.webhook_id, d.delivery_id
        from webhook_deliveries d
        where d.state = 'pending' and d.next_attempt_at <= now()
            and not exists (select from webhook_deliveries o
                where o.tenant_id = d.tenant_id and o.webhook_id = d.webhook_id and o.state = 'pending'
                    and o.claimed_until > now())
        order by d.tenant_id, d.webhook_id, d.seq
    ), receiver as (
        select w.*, f.delivery_id from webhooks w
        join first f on f.tenant_id = w.tenant_id and f.webhook_id = w.webhook_id
        order by w.webhook_id limit $1
        for no key update of w skip locked
    )
    update webhook_deliveries d
    set attempts = d.attempts + 1, last_attempt_at = now(), claimed_until = now() + make_interval(secs => $2),
        next_attempt_at = now() + make_interval(secs => $2)
    from receiver r
    where d.tenant_id = r.tenant_id and d.delivery_id = r.delivery_id and d.state = 'pending' and d.next_attempt_at <= now()
    returning d.tenant_id, d.delivery_id, d.webhook_id, d.workspace_id, d.event, d.payload, d.attempts, d.created_at,
        r.channel, r.url, r.secret
$function$;

-- Forgets deliveries that ended before a number of days. $1 days
create function drop_old_deliveries(integer) returns bigint
language sql security definer set search_path = public, pg_temp
as $function$
    with gone as (
        delete from webhook_deliveries d where d.ended_at < now() - make_interval(days => $1) returning 1
    )
    select count(*) from gone
$function$;
revoke execute on function alert_ended_raises(), take_alerts(integer, double precision),
    take_deliveries(integer, double precision), drop_old_deliveries(integer) from public;
grant execute on function alert_ended_raises(), take_alerts(integer, double precision),
    take_deliveries(integer, double precision), drop_old_deliveries(integer) to geko_app;
