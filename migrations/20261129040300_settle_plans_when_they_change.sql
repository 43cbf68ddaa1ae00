-- Settle an organisation's plan when what it rests on changes, instead of comparing all that pay every minute.
--
-- Locks:   plan_prices and organizations: share row exclusive, for the moment that making a trigger takes.
-- Rollout: expand; app.plans_adrift stays for functions that are deployed, until a later migration drops it.
-- Undo:    drop the triggers and their functions; jobs of type stripe_plan fail in the sweep's log until they are deleted.

set local role spine_definer;

-- Prices that stand for other plans from here on: a job for each organisation that subscribes to one.
create function app.queue_plans_of_prices() returns trigger
    language plpgsql security definer set search_path = '' as $$
declare
    v_prices text[];
begin
    -- A transition table exists for its own operations only.
    if tg_op = 'INSERT' then
        v_prices := array(select n.stripe_price_id from new_rows n);
    elsif tg_op = 'DELETE' then
        v_prices := array(select o.stripe_price_id from old_rows o);
    else
        v_prices := array(select n.stripe_price_id from new_rows n union select o.stripe_price_id from old_rows o);
    end if;
    insert into public.jobs (org_id, job_type, unique_key)
    select s.org_id, 'stripe_plan', 'prices:' || app.uuidv7()
      from (select distinct x.org_id from public.subscriptions x where x.stripe_price_ids && v_prices) s;
    return null;
end
$$;
comment on function app.queue_plans_of_prices() is 'Queues the settling of plans that rest on prices which were changed.';

-- A plan that somebody set by hand and that is not what is paid for.
create function app.queue_plan_of_organization() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    if app.paid_plan(new.id) <> new.plan then
        insert into public.jobs (org_id, job_type, unique_key) values (new.id, 'stripe_plan', 'plan:' || app.uuidv7());
    end if;
    return null;
end
$$;
comment on function app.queue_plan_of_organization() is 'Queues the settling of a plan that is not what subscriptions entitle to.';
grant execute on function app.queue_plans_of_prices(), app.queue_plan_of_organization() to spine_owner;

reset role;
set local role spine_owner;

create trigger plan_prices_queue_insert after insert on public.plan_prices referencing new table as new_rows
    for each statement execute function app.queue_plans_of_prices();
create trigger plan_prices_queue_update after update on public.plan_prices referencing old table as old_rows new table as new_rows
    for each statement execute function app.queue_plans_of_prices();
create trigger plan_prices_queue_delete after delete on public.plan_prices referencing old table as old_rows
    for each statement execute function app.queue_plans_of_prices();
create trigger organizations_queue_plan after update of plan on public.organizations
    for each row when (new.plan is distinct from old.plan) execute function app.queue_plan_of_organization();

reset role;
