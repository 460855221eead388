-- What answers instead when the model that was asked for can't: "Endpoint/model", tried in this order.
alter table workspace_config add column fallback text[] not null default '{}';
