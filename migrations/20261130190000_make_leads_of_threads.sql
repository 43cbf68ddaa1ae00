-- Make leads of social threads, by hand and by rules of the organisation.
--
-- Locks:   leads for the moment that a policy and a foreign key take; organizations, profiles, social_threads and social_accounts for the moment
--          that a foreign key takes; data_ownership exclusively, for an insert.
-- Rollout: expand. Without rules nothing happens by itself.
-- Undo:    drop the tables, functions and the policy of this file, take the definer's insert on leads back, and make app.lead_score as it was.

set local role spine_owner;

-- Rules ----------------------------------------------------------------------------------------------------------------------

create function app.are_lead_words(p_words text[]) returns boolean language sql immutable set search_path = '' as $$
    -- Each has a letter or a digit. Outside ASCII this does not tell letters from signs, since a database may have the locale C.
    select coalesce(bool_and(coalesce(length(w) between 2 and 100 and w ~ '[[:alnum:]]|[^\x01-\x7f]', false)), false) from unnest(p_words) w
$$;
comment on function app.are_lead_words(text[]) is 'Whether each is a word or a phrase that a text can be searched for.';
grant execute on function app.are_lead_words(text[]) to authenticated, spine_definer;

create table public.social_lead_rules (
    id            uuid        primary key default app.uuidv7(),
    org_id        uuid        not null references public.organizations (id) on delete cascade,
    name          text        not null,
    enabled       boolean     not null default true,
    account_id    uuid,
    kinds         text[]      not null default '{message,comment,mention}',
    words         text[]      not null,
    territory     text,
    wanted_skills text[]      not null default '{}',
    created_by    uuid        default app.uid() references public.profiles (id) on delete set null,
    created_at    timestamptz not null default now(),
    updated_at    timestamptz not null default now(),

    constraint social_lead_rules_org_id_id_key unique (org_id, id),
    constraint social_lead_rules_name_check check (length(name) between 1 and 100),
    constraint social_lead_rules_kinds_check check (kinds <@ '{message,comment,mention}' and cardinality(kinds) between 1 and 3),
    constraint social_lead_rules_words_check check (cardinality(words) between 1 and 50 and app.are_lead_words(words)),
    constraint social_lead_rules_territory_check check (length(territory) between 1 and 100),
    constraint social_lead_rules_wanted_skills_check check (cardinality(wanted_skills) <= 20 and pg_column_size(wanted_skills) <= 4000),
    constraint social_lead_rules_org_id_account_id_fkey
        foreign key (org_id, account_id) references public.social_accounts (org_id, id) on delete cascade
);
comment on table public.social_lead_rules is
    'When a thread becomes a lead by itself: somebody writes one of these words in it. Fifty for an organisation at most.';
comment on column public.social_lead_rules.account_id is 'Null: each account of the organisation.';
comment on column public.social_lead_rules.words is 'Whole words or phrases, in any case. One is enough.';
comment on column public.social_lead_rules.created_at is 'What was written earlier makes no lead.';
create index social_lead_rules_enabled_idx on public.social_lead_rules (org_id, created_at, id) where enabled;
create index social_lead_rules_org_id_account_id_idx on public.social_lead_rules (org_id, account_id);
create index social_lead_rules_created_by_idx on public.social_lead_rules (created_by);

-- Leads of threads -----------------------------------------------------------------------------------------------------------

create table public.social_leads (
    org_id    uuid        not null,
    thread_id uuid        not null,
    lead_id   uuid,
    rule_id   uuid,
    made_by   uuid        references public.profiles (id) on delete set null,
    made_at   timestamptz not null default now(),
    primary key (org_id, thread_id),
    constraint social_leads_org_id_lead_id_key unique (org_id, lead_id),
    constraint social_leads_org_id_thread_id_fkey
        foreign key (org_id, thread_id) references public.social_threads (org_id, id) on delete cascade,
    constraint social_leads_org_id_lead_id_fkey
        foreign key (org_id, lead_id) references public.leads (org_id, id) on delete set null (lead_id),
    constraint social_leads_org_id_rule_id_fkey
        foreign key (org_id, rule_id) references public.social_lead_rules (org_id, id) on delete set null (rule_id)
);
comment on table public.social_leads is
    'Which lead was made of a social thread. Who may read either of the two reads this; it has nothing of what was written.';
comment on column public.social_leads.lead_id is 'Null once the lead is deleted: a rule makes no other of the thread.';
comment on column public.social_leads.rule_id is 'The rule that made it. Null: a person did, or the rule is gone.';
create index social_leads_org_id_rule_id_idx on public.social_leads (org_id, rule_id);
create index social_leads_made_by_idx on public.social_leads (made_by);

-- Access ---------------------------------------------------------------------------------------------------------------------

alter table public.social_lead_rules enable row level security;
alter table public.social_lead_rules force row level security;
create policy social_lead_rules_select on public.social_lead_rules for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('leads:manage')));
create policy social_lead_rules_insert on public.social_lead_rules for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('leads:manage')));
create policy social_lead_rules_update on public.social_lead_rules for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('leads:manage')));
create policy social_lead_rules_delete on public.social_lead_rules for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('leads:manage')));
create policy social_lead_rules_service_select on public.social_lead_rules for select to spine_service using (org_id = (select app.service_org()));
create policy social_lead_rules_definer_select on public.social_lead_rules for select to spine_definer using (true);
-- Nothing changes it by this: only who may change a row may hold it.
create policy social_lead_rules_definer_update on public.social_lead_rules for update to spine_definer using (true);
grant update (updated_at) on public.social_lead_rules to spine_definer;
grant select, delete on public.social_lead_rules to authenticated;
grant insert (org_id, name, enabled, account_id, kinds, words, territory, wanted_skills),
      update (name, enabled, account_id, kinds, words, territory, wanted_skills) on public.social_lead_rules to authenticated;
grant select on public.social_lead_rules to spine_service, spine_definer;
create trigger social_lead_rules_touch before update on public.social_lead_rules for each row execute function app.touch_updated_at();
call app.audit_table('social_lead_rules', 'id', 'enabled,account_id,created_by');

alter table public.social_leads enable row level security;
alter table public.social_leads force row level security;
-- Correlated, since `in (select …)` would hash every lead that the caller may see.
create policy social_leads_select on public.social_leads for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('social:read')) then true
                    else exists (select from public.leads l where l.org_id = social_leads.org_id and l.id = social_leads.lead_id) end);
create policy social_leads_agent_select on public.social_leads for select to spine_agent
    using (org_id = (select app.agent_org_id())
           and case when (select app.agent_may('social:read')) then true
                    else exists (select from public.leads l where l.org_id = social_leads.org_id and l.id = social_leads.lead_id) end);
create policy social_leads_definer_select on public.social_leads for select to spine_definer using (true);
create policy social_leads_definer_insert on public.social_leads for insert to spine_definer with check (true);
create policy social_leads_definer_update on public.social_leads for update to spine_definer using (true);
grant select on public.social_leads to authenticated, spine_agent, spine_definer;
grant insert, update on public.social_leads to spine_definer;
call app.audit_table('social_leads', 'org_id,thread_id', 'lead_id,rule_id,made_by');

-- What the functions below read and write.
create policy leads_definer_insert on public.leads for insert to spine_definer with check (true);
grant insert (org_id, client_name, email, phone, source, budget_minor, currency, territory, wanted_skills) on public.leads to spine_definer;
grant select (sender_id) on public.social_messages to spine_definer;

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, column_name, owner) values ('social_lead_rules', null, 'human'), ('social_leads', null, 'system');
alter table public.data_ownership force row level security;

reset role;
grant create on schema public to spine_definer;
set local role spine_definer;

-- How many rules an organisation may have. After the policies, so that nobody learns how many others have.
create function app.bound_social_lead_rules() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('spine social lead rules ' || new.org_id, 0));
    if (select count(*) from public.social_lead_rules r where r.org_id = new.org_id) > 50 then
        perform app.refuse('PT422', 'too_many_lead_rules', 'An organisation has fifty rules at most.');
    end if;
    return null;
end
$$;
comment on function app.bound_social_lead_rules() is 'Refuses an organisation''s fifty-first rule.';
grant execute on function app.bound_social_lead_rules() to spine_owner;

-- The first e-mail address and the first telephone number that the other side wrote in a thread, of the latest five hundred messages that it
-- wrote. Only what stands by itself and has the usual form: a guess would be worse than none.
create function app.contact_in_thread(p_thread public.social_threads, out email text, out phone text)
    language sql stable set search_path = '' set enable_seqscan = off as $$
    with said as materialized (
        select left(m.content, 5000) as text, m.received_at, m.id
          from public.social_messages m
         where m.org_id = p_thread.org_id and m.account_id = p_thread.account_id and m.thread_id = p_thread.thread_id
           and m.direction = 'in' and m.deleted_at is null and m.content ~ '[0-9@]'
           -- Others may write in the thread of a comment.
           and (p_thread.kind = 'message' or m.sender_id = p_thread.counterpart_id
                or p_thread.counterpart_id is null and m.sender_name = p_thread.counterpart_name)
         order by m.received_at desc limit 500
    )
    select (select f.found[1]
              from said s
             cross join lateral regexp_matches(
                   s.text,
                   '(?:^|[\s(<,;:"''])([A-Za-z0-9_%+-]{1,64}(?:\.[A-Za-z0-9_%+-]{1,64}){0,5}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,5}[A-Za-z]{2,24})(?:$|[\s)>,;:."''!?])',
                   'g') with ordinality f (found, place)
             where length(f.found[1]) <= 320
             order by s.received_at, s.id, f.place limit 1),
           (select f.found[1]
              from said s
             -- +46 70 123 45 67, 0046 (0)70-1234567, 070-123 45 67, 08/123 456.
             cross join lateral regexp_matches(
                   s.text,
                   '(?:^|[\s(<,;:"''])((?:\+|00)[1-9][0-9]{0,2}(?: ?\(0\))?[ -]?[0-9]{1,4}(?:[ -]?[0-9]{2,4}){1,4}|0[1-9][0-9]{0,2}(?:-| - |/| )?[0-9]{2,3}(?: ?[0-9]{2,3}){1,3})(?:$|[\s)>,;:."''!?])',
                   'g') with ordinality f (found, place)
             cross join lateral (select regexp_replace(f.found[1], '\D', '', 'g')) d (digits)
             where length(d.digits) between 8 and case when f.found[1] ~ '^(\+|00)' then 15 else 10 end
             order by s.received_at, s.id, f.place limit 1)
$$;
comment on function app.contact_in_thread(public.social_threads) is 'The first e-mail address and telephone number that the other side wrote in a thread.';

-- Makes a lead of a thread that has none, as the caller has checked under the inbox's lock. Null if it is not known who wrote. `p_fields` is as in
-- public.make_lead_of_thread.
create function app.lead_of_thread(p_thread public.social_threads, p_fields jsonb, p_user uuid, p_rule uuid) returns uuid
    language plpgsql volatile set search_path = '' as $$
declare
    v_name text := left(coalesce(nullif(btrim(p_thread.counterpart_name, E' \t\r\n\u00a0'), ''), nullif(btrim(p_thread.counterpart_id), '')), 200);
    v_lead uuid;
begin
    if v_name is null then
        return null;
    end if;
    insert into public.leads (org_id, client_name, email, phone, source, budget_minor, currency, territory, wanted_skills)
    select p_thread.org_id, v_name,
           case when p_fields ? 'email' then p_fields ->> 'email' else c.email end,
           case when p_fields ? 'phone' then p_fields ->> 'phone' else c.phone end,
           a.platform, (p_fields ->> 'budget_minor')::bigint, p_fields ->> 'currency', p_fields ->> 'territory',
           coalesce(array(select jsonb_array_elements_text(case when jsonb_typeof(p_fields -> 'wanted_skills') = 'array'
                                                                then p_fields -> 'wanted_skills' else '[]' end)), '{}')
      from public.social_accounts a, app.contact_in_thread(p_thread) c
     where a.org_id = p_thread.org_id and a.id = p_thread.account_id
    returning id into v_lead;
    insert into public.social_leads as s (org_id, thread_id, lead_id, rule_id, made_by) values (p_thread.org_id, p_thread.id, v_lead, p_rule, p_user)
    on conflict (org_id, thread_id) do update
       set lead_id = excluded.lead_id, rule_id = excluded.rule_id, made_by = excluded.made_by, made_at = excluded.made_at;
    return v_lead;
end
$$;
comment on function app.lead_of_thread(public.social_threads, jsonb, uuid, uuid) is
    'Makes a lead of a thread that has none, under the inbox''s lock. Null if it is not known who wrote.';

create function public.make_lead_of_thread(thread_id uuid, fields jsonb default '{}') returns uuid
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_user   uuid  := app.signed_in();
    v_org    uuid  := app.active_org_id();
    v_fields jsonb := coalesce(fields, '{}');
    v_thread public.social_threads;
    v_lead   uuid;
begin
    if v_org is null or not (app.may('leads:create') and app.may('social:read')) then
        perform app.refuse('PT403', 'lead_not_allowed', 'Making a lead of a thread takes the rights leads:create and social:read.');
    end if;
    if jsonb_typeof(v_fields) <> 'object' then
        perform app.refuse('PT422', 'lead_fields_invalid', 'The fields of a lead are an object.');
    end if;
    -- Those that are null say nothing, but that no contact is to be taken from the thread.
    if exists (select from jsonb_each(v_fields) f
                where case when f.key not in ('email', 'phone', 'budget_minor', 'currency', 'territory', 'wanted_skills') then true
                           when jsonb_typeof(f.value) = 'null' then false
                           when f.key = 'budget_minor' then jsonb_typeof(f.value) <> 'number' or f.value::text !~ '^[0-9]{1,15}$'
                           when f.key = 'wanted_skills' then jsonb_typeof(f.value) <> 'array'
                           else jsonb_typeof(f.value) <> 'string' end)
       or v_fields ->> 'email' !~ '^[^\s@]{1,64}@[^\s@]{1,255}$' or v_fields ->> 'phone' !~ '^[-+0-9() /]{3,50}$'
       or v_fields ->> 'territory' !~ '\S' or length(v_fields ->> 'territory') > 100
       or v_fields ->> 'currency' !~ '^[A-Z]{3}$' or (v_fields ->> 'currency' is null) <> (v_fields ->> 'budget_minor' is null)
       or jsonb_typeof(v_fields -> 'wanted_skills') = 'array'
          and (jsonb_array_length(v_fields -> 'wanted_skills') > 20 or octet_length((v_fields -> 'wanted_skills')::text) > 3000
               or exists (select from jsonb_array_elements(v_fields -> 'wanted_skills') s
                           where jsonb_typeof(s) <> 'string' or (s #>> '{}') !~ '\S' or length(s #>> '{}') > 100)) then
        perform app.refuse('PT422', 'lead_fields_invalid',
                           'A lead takes email, phone, territory, budget_minor with currency, and up to twenty wanted_skills.');
    end if;
    -- Readings and deliveries apply rules under the same lock: whoever comes second finds what the first made.
    perform app.lock_inbox();
    select * into v_thread from public.social_threads t where t.org_id = v_org and t.id = make_lead_of_thread.thread_id;
    if v_thread.id is null then
        perform app.refuse('PT404', 'thread_not_found', 'There is no such thread.');
    end if;
    select s.lead_id into v_lead from public.social_leads s where s.org_id = v_org and s.thread_id = v_thread.id;
    if v_lead is null then
        v_lead := app.lead_of_thread(v_thread, v_fields, v_user, null);
    end if;
    if v_lead is null then
        perform app.refuse('PT409', 'contact_unknown', 'It is not known who wrote in this thread.');
    end if;
    return v_lead;
end
$$;
comment on function public.make_lead_of_thread(uuid, jsonb) is
    'Makes a lead of a social thread, or finds the one that was made of it. `fields`: email, phone, budget_minor, currency, territory, wanted_skills. The lead.';
grant execute on function public.make_lead_of_thread(uuid, jsonb) to authenticated, spine_caller;

-- Makes leads of threads of an account in which something was written that a rule is about: [{"thread_id", "rule_id", "at", "sender_id",
-- "sender_name"}], the earlier ones first. A thread that has or had a lead gets none, and one in which another than the counterpart wrote it
-- waits for the counterpart. How many were made. The caller holds the inbox.
create function app.make_leads_by_rules(p_account uuid, p_found jsonb) returns integer
    language plpgsql volatile security definer set search_path = '' set enable_seqscan = off as $$
declare
    v_org    uuid := app.service_org();
    v_thread public.social_threads;
    v_rule   public.social_lead_rules;
    v_made   integer := 0;
    f        record;
begin
    if current_setting('role') <> 'spine_service' or v_org is null then
        raise exception 'rules are applied by the system, in one organisation' using errcode = 'insufficient_privilege';
    end if;
    perform app.lock_inbox();
    -- What was written first counts, and of what was written at one time the earliest rule.
    for f in select x.*
               from jsonb_to_recordset(p_found) x (thread_id text, rule_id uuid, at timestamptz, sender_id text, sender_name text)
              cross join lateral (select r.created_at from public.social_lead_rules r where r.org_id = v_org and r.id = x.rule_id) r
              order by x.at, r.created_at, x.rule_id
    loop
        select * into v_thread from public.social_threads t where t.org_id = v_org and t.account_id = p_account and t.thread_id = f.thread_id;
        continue when v_thread.id is null
                   or v_thread.kind <> 'message' and f.sender_id is distinct from v_thread.counterpart_id
                   or v_thread.kind <> 'message' and v_thread.counterpart_id is null and f.sender_name is distinct from v_thread.counterpart_name
                   or exists (select from public.social_leads s where s.org_id = v_org and s.thread_id = v_thread.id);
        -- Held, so that it is not deleted meanwhile.
        select * into v_rule from public.social_lead_rules r
         where r.org_id = v_org and r.id = f.rule_id and r.enabled and r.created_at <= f.at for key share;
        continue when v_rule.id is null;
        if app.lead_of_thread(v_thread, jsonb_build_object('territory', v_rule.territory, 'wanted_skills', v_rule.wanted_skills), null, v_rule.id)
           is not null then
            v_made := v_made + 1;
        end if;
    end loop;
    return v_made;
end
$$;
comment on function app.make_leads_by_rules(uuid, jsonb) is 'Makes leads of threads of an account in which a rule found its words. How many.';
grant execute on function app.make_leads_by_rules(uuid, jsonb) to spine_service;

-- A platform as the source counts as `social` does. app.lead_score is changed in this one place, whichever migration made it last.
do $$
declare
    v_was text := pg_get_functiondef('app.lead_score(uuid, uuid, timestamptz)'::regprocedure);
    v_is  text := replace(v_was, $was$case l.source when 'referral' then 1.0$was$,
                          $is$case case when l.source in ('instagram', 'facebook', 'tiktok') then 'social' else l.source end when 'referral' then 1.0$is$);
begin
    if v_is = v_was then
        raise exception 'app.lead_score does not say what a source counts';
    end if;
    execute v_is;
end
$$;

reset role;
revoke create on schema public from spine_definer;
set local role spine_owner;

create trigger social_lead_rules_bound after insert on public.social_lead_rules
    for each row execute function app.bound_social_lead_rules();

reset role;
