-- Notify people of approvals, connections, limits and jobs, in the transaction that changes these.
--
-- Locks:   approvals, org_integrations, agent_usage and jobs: share row exclusive, for the moment that making a trigger takes; approvals
--          while an index is made.
-- Rollout: expand.
-- Undo:    drop the triggers, the functions and the index of this file.

set local role spine_definer;

create function app.notify_of_approval() returns trigger
    language plpgsql security definer set search_path = '' as $$
declare
    v_right   text  := app.approval_right(new.kind);
    v_subject jsonb := jsonb_build_object('approval_id', new.id, 'client_id', new.client_id, 'kind', new.kind);
begin
    case new.status
        when 'proposed' then
            perform app.notify_holders(
                new.org_id, v_right, 'approval_waits', v_subject, new.id::text,
                case when not exists (select from public.approval_settings s where s.org_id = new.org_id and s.own_proposals)
                     then new.proposed_by end);
        when 'overdue' then
            perform app.notify_people(new.org_id, app.holders(new.org_id, v_right) || new.decided_by, 'approval_overdue', v_subject, new.id::text);
        else
            perform app.notify_people(new.org_id, array[new.proposed_by, new.decided_by], 'approval_failed',
                                      v_subject || jsonb_build_object('status', new.status), new.id || ':' || new.status);
    end case;
    return null;
end
$$;
comment on function app.notify_of_approval() is
    'Notifies those who may decide what waits or is overdue, and who proposed and approved what failed or may have.';

create function app.notify_of_connection() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    -- The tokens' version says which loss it is: a connection that is mended and lost again is another.
    perform app.notify_holders(new.org_id, 'integrations:manage', 'connection_needs_person',
                               jsonb_build_object('integration_id', new.id, 'provider', new.provider, 'status', new.status),
                               new.id || ':' || new.status || ':' || new.token_version);
    return null;
end
$$;
comment on function app.notify_of_connection() is 'Notifies those who manage connections that one needs a person.';

create function app.notify_of_limit() returns trigger
    language plpgsql security definer set search_path = '' as $$
declare
    v_reached boolean := new.reached_at is distinct from old.reached_at;
begin
    perform app.notify_holders(new.org_id, 'limits:read', 'limit_near',
                               jsonb_build_object('agent', new.agent, 'scope', new.scope, 'period', new.period,
                                                  'period_start', new.period_start, 'reached', v_reached),
                               concat_ws(':', new.agent, new.scope, new.scope_id, new.period, extract(epoch from new.period_start),
                                         case when v_reached then 'reached' else 'near' end,
                                         extract(epoch from case when v_reached then new.reached_at else new.warned_at end)));
    return null;
end
$$;
comment on function app.notify_of_limit() is 'Notifies those who see limits that one is near or reached, when app.warn_of_limits has found so.';

create function app.notify_of_job() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    -- An agent that asked for it is no profile, and nobody is notified.
    perform app.notify(new.org_id, new.created_by, 'job_failed', jsonb_build_object('job_id', new.id, 'job_type', new.job_type), new.id::text);
    return null;
end
$$;
comment on function app.notify_of_job() is 'Notifies the person who asked for a job that it failed.';

-- Approvals that nobody must overlook: approved and not executed, and executed with no known outcome.
create function app.count_approvals(out overdue bigint, out unknown bigint)
    language sql stable security definer set search_path = '' as $$
    select count(*) filter (where a.status = 'overdue'),
           -- An execution that began a quarter of an hour ago and has no outcome yet was cut off.
           count(*) filter (where a.status = 'unknown' or a.status = 'executing' and a.began_at < now() - interval '15 minutes')
      from public.approvals a where a.status in ('overdue', 'unknown', 'executing')
$$;
comment on function app.count_approvals() is 'How many approvals of all organisations are approved and not executed, and how many have no known outcome.';

grant execute on function app.notify_of_approval(), app.notify_of_connection(), app.notify_of_limit(), app.notify_of_job() to spine_owner;
grant execute on function app.count_approvals() to spine_service;

reset role;
set local role spine_owner;

create index approvals_red_idx on public.approvals (status) where status in ('overdue', 'unknown', 'executing');
create trigger approvals_notify_insert after insert on public.approvals
    for each row when (new.status = 'proposed') execute function app.notify_of_approval();
create trigger approvals_notify_update after update of status on public.approvals
    for each row when (new.status is distinct from old.status and new.status in ('overdue', 'failed', 'unknown'))
    execute function app.notify_of_approval();
create trigger org_integrations_notify after update of status on public.org_integrations
    for each row when (new.status is distinct from old.status and new.status in ('reconnect', 'expired', 'revoked'))
    execute function app.notify_of_connection();
-- Reservations set other columns, so that this runs once for a window.
create trigger agent_usage_notify after update of warned_at, reached_at on public.agent_usage
    for each row when (new.warned_at is distinct from old.warned_at or new.reached_at is distinct from old.reached_at)
    execute function app.notify_of_limit();
create trigger jobs_notify after update of status on public.jobs
    for each row when (new.status = 'failed' and old.status <> 'failed' and new.created_by is not null)
    execute function app.notify_of_job();

reset role;
