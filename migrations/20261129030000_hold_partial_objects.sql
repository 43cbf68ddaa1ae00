-- Hold an object of Stripe's that shows only some of a list until it was fetched in full, rather than decide by what it shows.
--
-- Locks:   none.
-- Rollout: expand; running code sends no `partial`. What it decided by ten entries of more is compared with Stripe within a day, and repaired.
-- Undo:    restore app.record_stripe_event as in 20261121003100, once no event is `received`.

set local role spine_owner;

-- Records one verified delivery, or one object fetched, with its effect and its audit entry: one round trip. In `p`: event_id, event_type,
-- api_version, occurred_at (seconds), object_id, kind, refs, facts, terminal, rank; `status` and `error` where there is nothing
-- to apply; `partial` where a list in the object was cut short; `again` applies what was applied before, without telling of it again. What
-- came of it, whether something waits for it to be claimed, and the organisation.
create or replace function app.record_stripe_event(p jsonb, p_raw bytea, out outcome text, out claims boolean, out org_id uuid)
    language plpgsql volatile set search_path = '' as $$
declare
    v_event    text   := p ->> 'event_id';
    v_object   text   := p ->> 'object_id';
    v_kind     text   := p ->> 'kind';
    v_refs     text[] := array(select jsonb_array_elements_text(p -> 'refs') order by 1);
    v_facts    jsonb  := p -> 'facts';
    v_at       timestamptz := to_timestamp((p ->> 'occurred_at')::bigint);
    v_terminal boolean := coalesce((p ->> 'terminal')::boolean, false);
    v_rank     integer := coalesce((p ->> 'rank')::integer, 0);
    v_digest   bytea;
    v_id       uuid := app.uuidv7();
    v_known    public.webhook_events;
    v_was      public.stripe_objects;
    v_wins     boolean := false;
    v_plan     text;
    v_again    boolean := coalesce((p ->> 'again')::boolean, false);
begin
    claims := false;
    if not v_again then
        -- Deliveries that share an id take turns, so that one that links and one that waits for it do not miss each other.
        perform pg_advisory_xact_lock(hashtextextended('stripe:' || r.id, 0))
           from (select distinct i as id from unnest(v_refs || array[coalesce(v_object, v_event)]) i order by 1) r;
    end if;
    org_id := app.service_org();
    if org_id is null and v_object is not null then
        -- Somebody may have been linked while it waited for its turn.
        perform app.enter_stripe(v_object, p -> 'refs');
        org_id := app.service_org();
    end if;
    -- A thin event has no owner yet: the object that is fetched finds its own.
    if org_id is null or p ->> 'status' = 'received' then
        org_id := null;
        outcome := case when app.keep_stripe_event(p, p_raw) then coalesce(p ->> 'status', 'unowned') else 'duplicate' end;
        return;
    end if;

    select * into v_known from public.webhook_events e where e.provider = 'stripe' and e.event_id = v_event;
    if v_known.id is null and app.adopt_stripe_event(v_event) then
        select * into v_known from public.webhook_events e where e.provider = 'stripe' and e.event_id = v_event;
    end if;
    if v_known.status in ('applied', 'superseded', 'ignored') and not v_again then
        outcome := 'duplicate';
        return;
    end if;
    v_id := coalesce(v_known.id, v_id);
    if not v_again then
        -- Not while everything is applied anew.
        perform pg_advisory_xact_lock_shared(hashtextextended('stripe.rebuild:' || org_id, 0));
    end if;

    outcome := p ->> 'status';
    if outcome is null and coalesce((p ->> 'partial')::boolean, false) then
        -- It decides nothing: it waits until the object was fetched in full. Applied again it does so only where nothing else tells of the
        -- object.
        outcome := case when v_again and exists (select from public.stripe_objects s where s.stripe_id = v_object and s.observed_at > '-infinity')
                        then 'superseded' else 'received' end;
        claims := not v_again;
        if claims then
            perform app.admit_service_job('stripe_claim', 'waiting:' || v_event, '{}', now());
        end if;
    elsif outcome is null then
        v_digest := app.stripe_digest(v_facts);
        if v_kind in ('subscription', 'checkout_session', 'customer') and not v_again then
            -- The plan is of all its subscriptions, and one customer is chosen of all: they take turns.
            perform pg_advisory_xact_lock(hashtextextended('stripe:' || org_id, 0));
        end if;
        select * into v_was from public.stripe_objects s where s.stripe_id = v_object;
        if v_kind = 'invoice' and v_facts ->> 'status' = 'deleted' and not v_facts ? 'created' and v_was.stripe_id is not null then
            -- Stripe only said that it is gone: the rest is as it was told before.
            v_facts := v_was.facts || '{"status": "deleted"}';
            v_digest := app.stripe_digest(v_facts);
        end if;
        if v_was.stripe_id is null then
            v_wins := true;
            insert into public.stripe_objects (org_id, stripe_id, kind, refs, facts, terminal, observed_at, rank, digest, told_by)
            values (org_id, v_object, v_kind, v_refs, v_facts, v_terminal, v_at, v_rank, v_digest, v_id);
        else
            v_wins := (v_terminal, v_at, v_rank, v_digest, v_facts) > (v_was.terminal, v_was.observed_at, v_was.rank, v_was.digest, v_was.facts);
            v_refs := array(select distinct i from unnest(v_was.refs || v_refs) i order by i);
            if v_wins then
                update public.stripe_objects s
                   set refs = v_refs, facts = v_facts, terminal = v_terminal, observed_at = v_at, rank = v_rank, digest = v_digest, told_by = v_id,
                       compared_at = now()
                 where s.stripe_id = v_object;
            elsif v_refs <> v_was.refs then
                update public.stripe_objects s set refs = v_refs where s.stripe_id = v_object;
            end if;
            if (v_terminal, v_at, v_rank) = (v_was.terminal, v_was.observed_at, v_was.rank) and v_digest <> v_was.digest and not v_again then
                -- Two states of one second, and nothing tells which came later: Stripe is asked, once that second is over.
                perform app.admit_service_job('stripe_settle', v_object || ':' || v_event, jsonb_build_object('object_id', v_object), now() + interval '2 seconds');
            end if;
        end if;
        outcome := case when v_wins then 'applied' else 'superseded' end;
        if v_wins and v_facts is distinct from v_was.facts then
            perform app.project_stripe(org_id, v_object, v_kind, v_facts);
        end if;
        if v_wins and v_digest is distinct from v_was.digest then
            if v_kind = 'subscription' then
                v_plan := app.settle_plan(org_id);
            elsif v_kind = 'checkout_session' then
                -- What was paid was paid, whatever we believed of it.
                update public.billing_checkouts c set status = v_facts ->> 'status', session_id = v_object
                 where (c.session_id = v_object
                        or c.session_id is null
                           and c.id = any (array(select substr(r, 10)::uuid from unnest(v_refs) r where r ~ '^checkout:[0-9a-f-]{36}$')))
                   and (v_facts ->> 'status' = 'complete' or v_facts ->> 'status' = 'expired' and c.status in ('creating', 'open'));
                if v_facts ->> 'status' = 'complete' and v_facts ->> 'customer' is not null then
                    perform app.link_customer(org_id, v_facts ->> 'customer', v_id);
                end if;
            end if;
            if v_kind in ('checkout_session', 'customer') then
                perform app.settle_customer(org_id);
            end if;
        end if;
        if v_wins and v_digest is distinct from v_was.digest and not v_again then
            perform app.append_audit('stripe.' || coalesce(p ->> 'event_type', 'fetched'),
                case v_kind when 'invoice' then 'invoices' when 'subscription' then 'subscriptions' else 'stripe_objects' end, v_object,
                jsonb_build_object('event_id', v_event, 'occurred_at', v_at), jsonb_build_object('was', v_was.facts -> 'status'),
                jsonb_strip_nulls(jsonb_build_object('status', v_facts -> 'status', 'amount', v_facts -> 'amount', 'currency', v_facts -> 'currency',
                                                     'plan', v_plan)),
                '{}', null, null, null, null);
        end if;
        claims := not v_again and app.stripe_event_waits(array_append(v_refs, v_object));
        if claims then
            perform app.admit_service_job('stripe_claim', 'waiting:' || v_event, '{}', now());
        end if;
    end if;

    if v_known.id is null then
        insert into public.webhook_events (id, provider, event_id, org_id, raw, event_type, api_version, status, error, object_id, refs, occurred_at)
        values (v_id, 'stripe', v_event, org_id, p_raw, p ->> 'event_type', p ->> 'api_version', outcome, p ->> 'error', v_object, v_refs, v_at)
        on conflict (provider, event_id) do nothing;
    else
        update public.webhook_events e set status = outcome, error = p ->> 'error' where e.id = v_id;
    end if;
end
$$;
comment on function app.record_stripe_event(jsonb, bytea) is
    'Records a delivery of Stripe''s, its effect and its audit entry. applied, superseded, duplicate, received, ignored, unowned, unparsed or failed.';
comment on column public.webhook_events.status is
    'received: not applied yet; a thin event, or one of which Stripe must show the rest. superseded: something newer was known. unowned: nobody is known to own it yet.';

reset role;
