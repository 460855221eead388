-- The reconcile report (GET /v1/workspaces/{id}/usage/reconcile) lists messages by time, without the calls among them.
create index turns_messages_by_time on turns (tenant_id, workspace_id, started_at desc, turn_id desc) where call_kind is null;
-- It was meant for that, but nothing asks for turns that are charged by their calls only; and a condition on a column that
-- changes while a turn runs makes its new version need all indexes anew.
drop index turns_of_messages;
