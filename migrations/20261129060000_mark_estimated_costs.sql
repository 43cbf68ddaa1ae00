-- Mark costs that the provider did not report: provider_calls, render_results and billing_events say of each whether it is estimated.
--
-- Locks:   provider_calls, render_results and billing_events exclusively, for the moment that adding a column takes.
-- Rollout: expand; code that runs leaves the columns false, as it leaves a call without a cost until it has ended.
-- Undo:    alter table … drop column estimated, on each.

set local role spine_owner;

alter table public.provider_calls add column estimated boolean not null default false;
alter table public.render_results add column estimated boolean not null default false;
alter table public.billing_events add column estimated boolean not null default false;
comment on column public.provider_calls.estimated is
    'The provider did not report all that it bills, so the call costs what was reserved for it. So does one that has not ended.';
comment on column public.render_results.estimated is 'A call behind it is estimated.';
comment on column public.billing_events.estimated is 'A call behind it is estimated: the charge is no less than what was reserved.';
grant update (estimated) on public.provider_calls to spine_service;

reset role;
