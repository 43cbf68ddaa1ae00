-- Let the system write down a failure before it is known whose it is.
--
-- Locks:   access exclusive on error_logs, for a moment: a policy is changed.
-- Rollout: expand; running code writes rows of an organisation only.
-- Undo:    alter the policy back to `org_id = (select app.service_org())`.

set local role spine_owner;

-- In no organisation the system writes rows of no organisation, and no row of any. Nobody but an operator reads those.
alter policy error_logs_service_insert on public.error_logs
    with check (org_id is not distinct from (select app.service_org()));
comment on column public.error_logs.org_id is 'Whose failure it was; null where that was not known when it failed.';

reset role;
