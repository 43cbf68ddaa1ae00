-- Mark which costs belong to an organisation that has a customer, so that those in no report are found without asking every organisation
-- that pays and without reading what the others spend.
--
-- Locks:   billing_events exclusively, for the moment that adding a column with a constant default takes, and against writes while an index
--          is built; organizations: share row exclusive, for the moment that making a trigger takes.
-- Rollout: expand; costs that are there count as metered, which changes nothing: since when an organisation is metered is asked as before.
-- Undo:    create or replace app.unreported_costs as 20261121003100 has it, drop the triggers, their functions, the index and the column, and
--          build billing_events_unreported_idx as 20261121003000 has it.

set local role spine_owner;

alter table public.billing_events add column metered boolean not null default true;
comment on column public.billing_events.metered is 'Whether the organisation had a Stripe customer by then, or has got one since.';
create index billing_events_unmetered_idx on public.billing_events (created_at, org_id)
    where metered and meter_report_id is null and cost_micro_usd > 0;
drop index public.billing_events_unreported_idx;

create policy billing_events_definer_update on public.billing_events for update to spine_definer using (true) with check (true);
grant update (metered) on public.billing_events to spine_definer;

reset role;
set local role spine_definer;

create function app.mark_metered() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    new.metered := exists (select from public.organizations o where o.id = new.org_id and o.stripe_customer_id is not null);
    return new;
end
$$;
comment on function app.mark_metered() is 'Marks a cost as metered if its organisation has a customer.';

-- Costs of before the customer are not billed by use, and app.metered_since says so; what that leaves is.
create function app.meter_new_customer() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    update public.billing_events b set metered = true
     where b.org_id = new.id and not b.metered and b.meter_report_id is null and b.created_at >= now() - interval '34 days';
    return null;
end
$$;
comment on function app.meter_new_customer() is 'Marks recent costs of an organisation that has got a customer as metered.';
grant execute on function app.mark_metered(), app.meter_new_customer() to spine_owner;

-- Organisations with a customer and with costs that are in no report yet.
create or replace function app.unreported_costs(p_before timestamptz, p_most integer) returns setof uuid
    language sql stable security definer set search_path = '' as $$
    with spending as materialized (
        select distinct b.org_id as id from public.billing_events b
         where b.metered and b.meter_report_id is null and b.cost_micro_usd > 0
           -- No longer than Stripe's meter takes them.
           and b.created_at < p_before and b.created_at >= now() - interval '34 days'
    )
    select s.id from spending s join public.organizations o on o.id = s.id and o.stripe_customer_id is not null
     where exists (select from public.billing_events b
                    where b.org_id = s.id and b.meter_report_id is null and b.cost_micro_usd > 0
                      and b.created_at < p_before and b.created_at >= app.metered_since(s.id))
     limit least(p_most, 1000)
$$;

reset role;
set local role spine_owner;

create trigger billing_events_mark_metered before insert on public.billing_events
    for each row execute function app.mark_metered();
create trigger organizations_meter after update of stripe_customer_id on public.organizations
    for each row when (new.stripe_customer_id is not null and new.stripe_customer_id is distinct from old.stripe_customer_id)
    execute function app.meter_new_customer();

reset role;
