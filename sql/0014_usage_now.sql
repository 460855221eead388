-- What a workspace has used, holds and may use at this moment, in one round trip: for reports, live usage and balances.

create index limit_windows_open on limit_windows (tenant_id, workspace_id, ends_at);

-- $1 tenant, $2 workspace. windows: those that have not ended, [limit_id, subject, starts_at, used, leased] each, the instant in
-- seconds since 1970. amounts: what limits come to now, by id; null: no limit. turns: that run; consumed: their tokens so far.
create function usage_now(uuid, uuid)
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
        count(*), coalesce(sum(l.consumed), 0)::bigint
    from leases l where l.tenant_id = $1 and l.workspace_id = $2;
end
$function$;
