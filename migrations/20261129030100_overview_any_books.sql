-- Have billing_overview choose the subscription that gives the plan, count every open invoice, and know invoices that are sent.
--
-- Locks:   billing_overview exclusively, for the moment that replacing a view takes.
-- Rollout: expand; two columns are added at the end. open_amount is what remains of all open invoices, not of one.
-- Undo:    drop the view, and create it as in 20261121003000.

set local role spine_owner;

create or replace view public.billing_overview with (security_invoker = true) as
select o.id as org_id, o.plan, s.stripe_subscription_id, s.status as subscription_status, s.stripe_price_id, s.quantity,
       s.current_period_end, s.cancel_at, s.cancel_at_period_end, s.trial_end,
       i.stripe_invoice_id as open_invoice_id, (a.amounts ->> i.currency)::bigint as open_amount, i.currency as open_currency, i.attempt_count,
       i.next_payment_attempt, i.hosted_invoice_url, d.open as open_disputes,
       case when d.open > 0 then 'disputed'
            when s.stripe_subscription_id is null then 'none'
            when s.status in ('active', 'trialing') and s.collection_paused then 'collection_paused'
            when s.status in ('active', 'trialing', 'past_due', 'unpaid', 'incomplete') and i.trouble = 3 then 'action_required'
            when s.status in ('active', 'trialing') and i.trouble = 2 then 'payment_failed'
            when s.status in ('active', 'trialing') and i.trouble = 1 then 'past_due'
            when s.status in ('active', 'trialing') and (s.cancel_at_period_end or s.cancel_at is not null) then 'canceling'
            else s.status end as state,
       coalesce(a.invoices, 0) as open_invoices, coalesce(a.amounts, '{}') as open_amounts
  from public.organizations o
  left join lateral (
       -- Of those that give a plan, one that gives the plan they have, as app.paid_plan chooses it; else what comes closest. Of several
       -- the newest that is paid and goes on.
       select x.*
         from public.subscriptions x
         left join lateral (
              select p.rank, p.plan
                from unnest(x.stripe_price_ids) u (price) join public.plan_prices p on p.stripe_price_id = u.price
               where x.status in ('trialing', 'active', 'past_due')
               order by p.rank desc, p.plan limit 1) g on true
        where x.org_id = o.id
        order by case when x.status in ('trialing', 'active', 'past_due') then 1 when x.status in ('unpaid', 'paused') then 2
                      when x.status = 'incomplete' then 3 when x.status = 'canceled' then 4 else 5 end,
                 g.rank desc nulls last, g.plan, x.status = 'past_due', x.cancel_at_period_end or x.cancel_at is not null,
                 x.created_at desc, x.stripe_subscription_id collate "C" desc
        limit 1) s on true
  left join lateral (
       -- The open invoice that wants attention most: 3 the payer must act, 2 a charge failed, 1 it was sent and is late. Only one that is
       -- sent has a time by which it is due. The first invoice of a subscription that never began lapses with it.
       select x.stripe_invoice_id, x.currency, x.attempt_count, x.next_payment_attempt, x.hosted_invoice_url,
              case when exists (select from public.subscriptions b
                                 where b.stripe_subscription_id = x.stripe_subscription_id and b.org_id = o.id
                                   and b.status in ('incomplete', 'incomplete_expired') and b.id is distinct from s.id) then 0
                   when p.event_type = 'invoice.payment_action_required' then 3
                   when x.due_at is null and x.attempted then 2
                   when x.due_at <= now() then 1
                   else 0 end as trouble
         from public.invoices x
         left join lateral (
              select w.event_type from public.webhook_events w
               where w.org_id = o.id and w.object_id = x.stripe_invoice_id
                 and w.event_type in ('invoice.payment_action_required', 'invoice.payment_failed')
               order by w.occurred_at desc, w.event_type limit 1) p on true
        where x.org_id = o.id and x.status = 'open' and coalesce(x.amount_remaining, x.amount_due, x.amount) > 0
        order by trouble desc, x.created_at, x.stripe_invoice_id collate "C"
        limit 1) i on true
 cross join lateral (
       select sum(c.invoices)::bigint as invoices, jsonb_object_agg(c.currency, c.amount) as amounts
         from (select x.currency, count(*) as invoices, sum(coalesce(x.amount_remaining, x.amount_due, x.amount)) as amount
                 from public.invoices x
                where x.org_id = o.id and x.status = 'open' and coalesce(x.amount_remaining, x.amount_due, x.amount) > 0
                group by x.currency) c) a
 cross join lateral (
       select count(*) filter (where x.facts ->> 'status' in ('needs_response', 'warning_needs_response', 'under_review', 'warning_under_review')) as open
         from public.stripe_objects x where x.org_id = o.id and x.kind = 'dispute') d
 where (select app.may('billing:read'));
comment on view public.billing_overview is
    'Where the organisation stands with what it pays for. state: none, incomplete, trialing, active, canceling, payment_failed, action_required, past_due, unpaid, paused, collection_paused, disputed, canceled or incomplete_expired.';
comment on column public.billing_overview.open_invoice_id is 'The open invoice that wants attention most: the payer must act, a charge failed, it is late; else the oldest.';
comment on column public.billing_overview.open_amount is 'What remains of all open invoices in open_currency, in minor units.';
comment on column public.billing_overview.open_amounts is 'The same by currency.';
comment on column public.invoices.due_at is 'By when it is to be paid. Only an invoice that is sent to the customer, rather than charged, has such a time.';

reset role;
