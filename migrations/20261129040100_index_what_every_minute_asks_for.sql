-- Index what schedules ask for every minute: old idempotency keys, organisations whose leads are assigned by themselves, and Stripe's
-- events of which too little is known.
--
-- Locks:   idempotency_keys, lead_assignment_settings and webhook_events against writes, while an index of each is built.
-- Rollout: expand.
-- Undo:    drop the three indexes, create or replace app.unclear_stripe_events as 20261121003100 has it, and drop app.names_customer.

set local role spine_definer;

create function app.names_customer(p_refs text[]) returns boolean language sql immutable set search_path = '' as $$
    select exists (select from unnest(p_refs) r where r like 'cus\_%')
$$;
comment on function app.names_customer(text[]) is 'Whether one of these ids of Stripe''s is a customer''s.';
-- By everybody who writes an event: an index asks it.
grant execute on function app.names_customer(text[]) to spine_owner, spine_service;

reset role;
set local role spine_owner;

create index idempotency_keys_created_at_idx on public.idempotency_keys (created_at);
create index lead_assignment_settings_enabled_idx on public.lead_assignment_settings (org_id) where enabled;
create index webhook_events_unclear_idx on public.webhook_events (received_at)
    where provider = 'stripe' and org_id is null and looked_up_at is null
      and (status = 'received' or (status = 'unowned' and not app.names_customer(refs)));

reset role;
set local role spine_definer;

-- Deliveries of which too little is known: thin ones, and objects that name no customer. For each: its row, its id, its type, its object.
create or replace function app.unclear_stripe_events(p_most integer)
    returns table (id uuid, event_id text, event_type text, object_id text)
    language sql stable security definer set search_path = '' as $$
    select e.id, e.event_id, e.event_type, e.object_id from public.webhook_events e
     where e.provider = 'stripe' and e.org_id is null and e.looked_up_at is null
       and (e.status = 'received' or (e.status = 'unowned' and not app.names_customer(e.refs)))
       and e.received_at > now() - interval '30 days'
     -- In another order each time, so that one of which nothing can be learned hides no other.
     order by random() limit least(p_most, 1000)
$$;

reset role;
