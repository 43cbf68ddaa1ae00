-- Count what a call costs in its windows whenever it becomes known: an answer that comes late, or a charge that is raised, may find the
-- reservation settled or given back.
--
-- Locks:   provider_calls: share row exclusive, for the moment that making a trigger takes.
-- Rollout: expand.
-- Undo:    drop the trigger and app.count_late_cost(); create or replace app.refund_usage as 20261121000600 has it.

set local role spine_definer;

-- Adds a change of a call's cost to the windows of a reservation that has ended. One that is active counts it as it ends.
create function app.count_late_cost() returns trigger language plpgsql security definer set search_path = '' as $$
declare
    r        public.usage_reservations;
    v_tokens bigint := coalesce(new.tokens, 0) - coalesce(old.tokens, 0);
    v_cost   bigint := coalesce(new.cost_micro_usd, 0) - coalesce(old.cost_micro_usd, 0);
begin
    -- Waits for whoever ends it at this moment; whoever ends it later waits for this, and sees the cost.
    select * into r from public.usage_reservations x where x.org_id = new.org_id and x.id = new.reservation_id for no key update;
    if not found or r.state = 'active' then
        return null;
    end if;
    -- What has expired may yet be settled, with what was not counted by then.
    update public.usage_reservations x set spent_tokens = x.spent_tokens + v_tokens, spent_cost_micro_usd = x.spent_cost_micro_usd + v_cost
     where x.org_id = r.org_id and x.id = r.id and x.state in ('refunded', 'expired');
    perform app.apply_usage(r.org_id, r.agent, r.windows, 0, 0, 0, 0, v_tokens, v_cost);
    return null;
end
$$;
revoke execute on function app.count_late_cost() from public;
grant execute on function app.count_late_cost() to spine_owner;
reset role;

set local role spine_owner;
create trigger provider_calls_count_late_cost after update of tokens, cost_micro_usd on public.provider_calls
    for each row when (old.tokens is distinct from new.tokens or old.cost_micro_usd is distinct from new.cost_micro_usd)
    execute function app.count_late_cost();
reset role;

set local role spine_definer;

-- As before, but what was spent is read when nobody can change it any more.
create or replace function app.refund_usage(p_reservation uuid, p_state text) returns boolean
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_org   uuid := app.current_org_id();
    r       public.usage_reservations;
    v_spent record;
begin
    if p_state not in ('refunded', 'expired') then
        raise exception 'a reservation ends refunded or expired' using errcode = 'invalid_parameter_value';
    end if;
    perform from public.usage_reservations x where x.org_id = v_org and x.id = p_reservation for no key update;
    select * into v_spent from app.spent(v_org, p_reservation);
    update public.usage_reservations x
       set state = p_state, ended_at = now(), spent_tokens = v_spent.tokens, spent_cost_micro_usd = v_spent.cost
     where x.org_id = v_org and x.id = p_reservation and x.state = 'active'
       and (p_state = 'refunded'
            or (x.expires_at <= now()
                and not exists (select from public.jobs j where j.id = x.job_id and j.status = 'running' and j.lease_until > now())))
    returning * into r;
    if not found then
        return false;
    end if;
    perform app.apply_usage(v_org, r.agent, r.windows, -r.requests, -r.tokens, -r.cost_micro_usd, 0, v_spent.tokens, v_spent.cost);
    return true;
end
$$;

reset role;
