-- Propose vouchers: checked against the books as they were read last, and made of submissions that were approved and invoices that were paid.
--
-- Locks:   template_question_accounting exclusively for the moment that a column takes; submission_reviews and data_ownership for a trigger and
--          an insert.
-- Rollout: contract for propose_accounting_write: it takes a voucher in integer öre and nothing else.
-- Undo:    drop the triggers, functions and tables of this file, make propose_accounting_write again as it was, and drop the column.

set local role spine_owner;

alter table public.template_question_accounting
    add column cost_center text,
    add constraint template_question_accounting_cost_center_check check (length(cost_center) between 1 and 6);
comment on column public.template_question_accounting.cost_center is 'The code of the cost center of its rows, where the account demands one.';
grant insert (cost_center), update (cost_center) on public.template_question_accounting to authenticated;

create table public.unproposed_vouchers (
    org_id        uuid        not null,
    source_key    text        not null,
    client_id     uuid        not null,
    submission_id uuid,
    problems      jsonb       not null,
    payment       jsonb,
    created_at    timestamptz not null default now(),
    updated_at    timestamptz not null default now(),
    primary key (org_id, source_key),
    constraint unproposed_vouchers_source_key_check check (length(source_key) between 1 and 200),
    constraint unproposed_vouchers_problems_check check (jsonb_typeof(problems) = 'array' and pg_column_size(problems) <= 65536),
    constraint unproposed_vouchers_org_id_client_id_fkey
        foreign key (org_id, client_id) references public.clients (org_id, id) on delete cascade,
    constraint unproposed_vouchers_org_id_submission_id_fkey
        foreign key (org_id, submission_id) references public.submissions (org_id, id) on delete cascade
);
comment on table public.unproposed_vouchers is
    'What a voucher could not be proposed for, and what is missing: [{"code","account",…}]. It goes when it can be.';
comment on column public.unproposed_vouchers.payment is 'The invoice that was paid: {"number","customer","paid_on","total_ore","reference"}. It is tried again for thirty days.';
create index unproposed_vouchers_payment_idx on public.unproposed_vouchers (org_id, updated_at) where payment is not null;
create index unproposed_vouchers_org_id_client_id_idx on public.unproposed_vouchers (org_id, client_id);
create index unproposed_vouchers_org_id_submission_id_idx on public.unproposed_vouchers (org_id, submission_id);

create table public.accounting_payment_reads (
    org_id     uuid        primary key references public.organizations (id) on delete cascade,
    read_until timestamptz not null
);
comment on table public.accounting_payment_reads is 'Until when an organisation''s invoices were read for payments.';

do $$
declare
    made text;
begin
    foreach made in array array['unproposed_vouchers', 'accounting_payment_reads'] loop
        execute format('alter table public.%I enable row level security', made);
        execute format('alter table public.%I force row level security', made);
        execute format('create policy %I on public.%I for select to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_select', made);
        execute format('grant select on public.%I to spine_service', made);
    end loop;
    -- What the functions below read.
    foreach made in array array['unproposed_vouchers', 'template_question_accounting', 'submission_reviews', 'templates'] loop
        execute format('create policy %I on public.%I for select to spine_definer using (true)', made || '_definer_select', made);
        execute format('grant select on public.%I to spine_definer', made);
    end loop;
end
$$;
create policy unproposed_vouchers_select on public.unproposed_vouchers for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('accounting:read')) then true
                    else client_id = any ((select app.my_consulted_client_ids())::uuid[]) end);
grant select on public.unproposed_vouchers to authenticated;
create policy unproposed_vouchers_definer_insert on public.unproposed_vouchers for insert to spine_definer with check (true);
create policy unproposed_vouchers_definer_update on public.unproposed_vouchers for update to spine_definer using (true);
create policy unproposed_vouchers_definer_delete on public.unproposed_vouchers for delete to spine_definer using (true);
grant insert, update, delete on public.unproposed_vouchers to spine_definer;
create trigger unproposed_vouchers_touch before update on public.unproposed_vouchers for each row execute function app.touch_updated_at();

create policy accounting_payment_reads_service_insert on public.accounting_payment_reads for insert to spine_service
    with check (org_id = (select app.service_org()));
create policy accounting_payment_reads_service_update on public.accounting_payment_reads for update to spine_service
    using (org_id = (select app.service_org()));
grant insert, update on public.accounting_payment_reads to spine_service;
create policy accounting_payment_reads_definer_select on public.accounting_payment_reads for select to spine_definer using (true);
create policy accounting_payment_reads_definer_delete on public.accounting_payment_reads for delete to spine_definer using (true);
grant select, delete on public.accounting_payment_reads to spine_definer;
grant update (customer_number, can_write) on public.client_accounting to spine_definer;

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, column_name, owner) values
    ('unproposed_vouchers', null, 'system'), ('accounting_payment_reads', null, 'system');
alter table public.data_ownership force row level security;

reset role;
grant create on schema public to spine_definer;
set local role spine_definer;

-- What Fortnox takes -----------------------------------------------------------------------------------------------------------

-- Characters outside its list are refused by Fortnox. By code point: the classes of a regular expression depend on the server's locale.
create function app.without_refused_characters(p_text text) returns text language sql immutable set search_path = '' as $$
    select regexp_replace(normalize(p_text, nfc),
        '[^ A-Za-z0-9\u2013:.`\u00B4\u2019'',;^\u00A4#%\u00A7\u00A3$\u20AC\u00A2\u00A5\u00A9\u2122\u00B0&/()=+*_!?\u00B2\u00B3\u00AE\u00BD@\u00A0\n\r\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u02AF\u0370-\u1FFF\u3040-\uD7FF-]',
        '', 'g')
$$;
comment on function app.without_refused_characters(text) is 'A text, composed, without characters that Fortnox refuses.';

-- Whether the books of the company that an organisation has connected were read to their end.
create function app.books_read(p_org uuid) returns boolean language sql stable set search_path = '' as $$
    select exists (select from public.fortnox_sync_state s
                     join public.org_integrations i on i.org_id = s.org_id and i.provider = 'fortnox' and i.external_tenant_id = s.tenant
                    where s.org_id = p_org and s.read_at is not null)
$$;

-- The financial year of a day, in an organisation's company.
create function app.fortnox_year(p_org uuid, p_day date) returns bigint language sql stable set search_path = '' as $$
    select y.year_id from public.fortnox_years y
     where y.org_id = p_org and p_day between y.from_date and y.to_date order by y.from_date desc limit 1
$$;

-- What keeps a row from an account of a year.
create function app.account_problems(p_org uuid, p_year bigint, p_account integer, p_cost_center text) returns text[]
    language sql stable set search_path = '' as $$
    select array_remove(array[
               case when a.number is null then 'account_unknown' when not a.active then 'account_inactive' end,
               case when a.cost_center_settings = 'MANDATORY' and p_cost_center is null then 'cost_center_missing'
                    when a.cost_center_settings = 'NOTALLOWED' and p_cost_center is not null then 'cost_center_not_allowed'
                    when p_cost_center is not null and not exists (select from public.fortnox_cost_centers c
                                                                    where c.org_id = p_org and c.code = p_cost_center and c.active)
                        then 'cost_center_unknown' end], null)
      from (select 1) one
      left join public.fortnox_accounts a on a.org_id = p_org and a.year_id = p_year and a.number = p_account
$$;

-- What keeps a voucher from a series of a year.
create function app.series_problem(p_org uuid, p_year bigint, p_series text) returns text language sql stable set search_path = '' as $$
    select case when s.code is null then 'series_unknown' when not s.manual then 'series_not_manual' end
      from (select 1) one
      left join public.fortnox_voucher_series s on s.org_id = p_org and s.year_id = p_year and s.code = p_series
$$;

-- What is wrong with a payload that is to be a voucher, before the books are looked at: its fields, lengths, characters and balance.
create function app.voucher_shape_problems(p_payload jsonb) returns jsonb
    language plpgsql stable set search_path = '' as $$
declare
    v_problems jsonb := '[]';
    v_row      jsonb;
    v_at       integer := 0;
    v_debit    numeric := 0;
    v_credit   numeric := 0;
    v_bad      text;
begin
    if jsonb_typeof(p_payload) is distinct from 'object'
       or exists (select from jsonb_object_keys(p_payload) k where k not in ('series', 'date', 'year_id', 'description', 'rows')) then
        return '[{"code": "voucher_invalid"}]';
    end if;
    if jsonb_typeof(p_payload -> 'series') is distinct from 'string' or p_payload ->> 'series' !~ '^[A-Za-z0-9]{1,10}$' then
        v_problems := v_problems || '{"code": "series_invalid"}';
    end if;
    if jsonb_typeof(p_payload -> 'date') is distinct from 'string' or p_payload ->> 'date' !~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$'
       or not pg_input_is_valid(p_payload ->> 'date', 'date') then
        v_problems := v_problems || '{"code": "date_invalid"}';
    end if;
    if jsonb_typeof(p_payload -> 'description') is distinct from 'string' or length(btrim(p_payload ->> 'description')) not between 1 and 180 then
        v_problems := v_problems || '{"code": "description_invalid"}';
    elsif app.without_refused_characters(p_payload ->> 'description') <> normalize(p_payload ->> 'description', nfc) then
        v_problems := v_problems || '{"code": "characters_refused", "field": "description"}';
    end if;
    if jsonb_typeof(p_payload -> 'rows') is distinct from 'array' or jsonb_array_length(p_payload -> 'rows') not between 2 and 500 then
        return v_problems || '{"code": "rows_invalid"}';
    end if;
    for v_row in select jsonb_array_elements(p_payload -> 'rows') loop
        v_at := v_at + 1;
        v_bad := case
            when jsonb_typeof(v_row) <> 'object'
                 or exists (select from jsonb_object_keys(v_row) k where k not in ('account', 'debit', 'credit', 'cost_center', 'text')) then 'row_invalid'
            when jsonb_typeof(v_row -> 'account') is distinct from 'number' or v_row ->> 'account' !~ '^[1-9][0-9]{3}$' then 'account_invalid'
            -- Fourteen digits, the two decimals included.
            when coalesce(v_row -> 'debit', '0') <> 'null' and (jsonb_typeof(coalesce(v_row -> 'debit', '0')) <> 'number' or coalesce(v_row ->> 'debit', '0') !~ '^[0-9]{1,14}$')
                 or coalesce(v_row -> 'credit', '0') <> 'null' and (jsonb_typeof(coalesce(v_row -> 'credit', '0')) <> 'number' or coalesce(v_row ->> 'credit', '0') !~ '^[0-9]{1,14}$')
                then 'amount_invalid'
            when (coalesce(v_row ->> 'debit', '0')::numeric = 0) = (coalesce(v_row ->> 'credit', '0')::numeric = 0) then 'row_one_sided'
            when coalesce(v_row -> 'cost_center', 'null') <> 'null' and (jsonb_typeof(v_row -> 'cost_center') <> 'string' or length(v_row ->> 'cost_center') not between 1 and 6)
                then 'cost_center_invalid'
            when coalesce(v_row -> 'text', 'null') <> 'null' and (jsonb_typeof(v_row -> 'text') <> 'string' or length(v_row ->> 'text') not between 1 and 100) then 'text_invalid'
            when app.without_refused_characters(coalesce(v_row ->> 'text', '') || coalesce(v_row ->> 'cost_center', ''))
                 <> normalize(coalesce(v_row ->> 'text', '') || coalesce(v_row ->> 'cost_center', ''), nfc) then 'characters_refused'
            end;
        if v_bad is not null then
            v_problems := v_problems || jsonb_build_object('code', v_bad, 'row', v_at);
        else
            v_debit := v_debit + coalesce(v_row ->> 'debit', '0')::numeric;
            v_credit := v_credit + coalesce(v_row ->> 'credit', '0')::numeric;
        end if;
        if jsonb_array_length(v_problems) >= 20 then
            return v_problems;
        end if;
    end loop;
    if v_problems = '[]' and v_debit <> v_credit then
        v_problems := v_problems || jsonb_build_object('code', 'voucher_unbalanced', 'debit', v_debit, 'credit', v_credit);
    end if;
    return v_problems;
end
$$;

-- A payload as the voucher that is to be approved: with its financial year, composed texts, and nothing that is not set. Or what is wrong with
-- it: [{"code","row","account",…}].
create function app.voucher_of(p_org uuid, p_payload jsonb, out voucher jsonb, out problems jsonb)
    language plpgsql stable set search_path = '' as $$
declare
    v_day  date;
    v_year bigint;
    v_code text;
begin
    problems := app.voucher_shape_problems(p_payload);
    if problems <> '[]' then
        return;
    end if;
    v_day := (p_payload ->> 'date')::date;
    if not app.books_read(p_org) then
        problems := '[{"code": "books_not_read"}]';
        return;
    end if;
    v_year := app.fortnox_year(p_org, v_day);
    if v_year is null then
        problems := jsonb_build_array(jsonb_build_object('code', 'financial_year_missing', 'date', v_day));
        return;
    end if;
    if exists (select from public.fortnox_sync_state s where s.org_id = p_org and s.locked_until >= v_day) then
        problems := problems || jsonb_build_object('code', 'period_locked', 'date', v_day);
    end if;
    v_code := app.series_problem(p_org, v_year, p_payload ->> 'series');
    if v_code is not null then
        problems := problems || jsonb_build_object('code', v_code, 'series', p_payload ->> 'series');
    end if;
    problems := problems || (
        select coalesce(jsonb_agg(jsonb_build_object('code', p.code, 'row', r.at, 'account', (r.row ->> 'account')::integer) order by r.at, p.code), '[]')
          from (select * from jsonb_array_elements(p_payload -> 'rows') with ordinality x (row, at) limit 500) r
         cross join lateral unnest(app.account_problems(p_org, v_year, (r.row ->> 'account')::integer, r.row ->> 'cost_center')) p (code));
    if problems <> '[]' then
        return;
    end if;
    voucher := jsonb_build_object(
        'series', p_payload ->> 'series', 'date', v_day, 'year_id', v_year, 'description', normalize(btrim(p_payload ->> 'description'), nfc),
        'rows', (select jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
                            'account', r.row -> 'account', 'debit', coalesce(r.row ->> 'debit', '0')::bigint, 'credit', coalesce(r.row ->> 'credit', '0')::bigint,
                            'cost_center', r.row ->> 'cost_center', 'text', normalize(r.row ->> 'text', nfc))) order by r.at)
                   from jsonb_array_elements(p_payload -> 'rows') with ordinality r (row, at)));
end
$$;
comment on function app.voucher_of(uuid, jsonb) is 'A payload as the voucher that is to be approved, or what is wrong with it.';

-- The first problem is the code, and all are named.
create function app.refuse_voucher(p_problems jsonb) returns void language plpgsql stable set search_path = '' as $$
begin
    perform app.refuse('PT422', p_problems -> 0 ->> 'code', 'The voucher cannot be proposed: ' || (
        select string_agg(concat_ws(' ', case when p.problem ? 'row' then 'row ' || (p.problem ->> 'row') || ':' end, p.problem ->> 'code',
                                    p.problem ->> 'account', p.problem ->> 'series', p.problem ->> 'date'), '; ')
          from jsonb_array_elements(p_problems) p (problem)) || '.');
end
$$;

create or replace function public.propose_accounting_write(client_id uuid, kind text, payload jsonb, lasts interval default '7 days') returns uuid
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_variable
declare
    v_role    text    := current_setting('role');
    v_org     uuid    := app.current_org_id();
    v_user    uuid    := case when v_role in ('authenticated', 'spine_caller') then app.signed_in() end;
    v_agent   uuid    := case when v_role = 'spine_agent' then app.agent_id() end;
    v_tenant  text;
    v_id      uuid    := app.uuidv7();
    v_checked record;
begin
    if v_org is null or coalesce(v_user, v_agent) is null
       or not (case when v_agent is null then app.may('accounting:propose') else app.agent_may('accounting:propose') end) then
        perform app.refuse('PT403', 'proposal_not_allowed', 'Proposing what is written to books takes the right accounting:propose.');
    end if;
    if not exists (select from public.clients c where c.org_id = v_org and c.id = propose_accounting_write.client_id and c.status = 'active')
       or v_user is not null and not app.may('accounting:read')
          and not coalesce(propose_accounting_write.client_id = any (app.my_consulted_client_ids()), false) then
        perform app.refuse('PT404', 'client_not_found', 'There is no such client, or it is archived.');
    end if;
    if kind is distinct from 'voucher' then
        perform app.refuse('PT422', 'kind_unknown', 'A voucher can be proposed.');
    end if;
    if jsonb_typeof(payload) is distinct from 'object' or pg_column_size(payload) > 262144 then
        perform app.refuse('PT422', 'payload_invalid', 'A payload is an object of at most 256 KiB.');
    end if;
    select i.external_tenant_id into v_tenant from public.org_integrations i
     where i.org_id = v_org and i.provider = 'fortnox' and i.status = 'connected';
    if v_tenant is null then
        perform app.refuse('PT409', 'not_connected', 'Fortnox is not connected; an admin connects it first.');
    end if;
    select * into v_checked from app.voucher_of(v_org, payload);
    if v_checked.voucher is null then
        perform app.refuse_voucher(v_checked.problems);
    end if;
    insert into public.accounting_writes (id, org_id, client_id, kind, payload, payload_hash, external_tenant_id)
    values (v_id, v_org, propose_accounting_write.client_id, kind, v_checked.voucher, app.payload_digest(v_checked.voucher), v_tenant);
    return app.open_approval(v_org, 'voucher', 'accounting_writes', v_id, propose_accounting_write.client_id, app.payload_digest(v_checked.voucher),
                             v_user, v_agent, lasts);
end
$$;

-- What a submission is mapped to -------------------------------------------------------------------------------------------------

-- The lines of a submission's mappings for an event, in öre: an answer's amount on its account and side, the VAT that it holds on an account
-- of its own. A negative amount is booked on the other side. `problem` says why there is no line.
create function app.mapped_lines(p_org uuid, p_submission uuid, p_event text, p_year bigint)
    returns table (series text, account integer, side text, cost_center text, ore numeric, problem jsonb)
    language sql stable set search_path = '' as $$
    with answers as (
        select m.id, m.question_id, m.account::integer as account, m.side, m.vat_code, m.voucher_series as series, m.cost_center,
               case jsonb_typeof(a.value) when 'number' then trim_scale(a.value::numeric)::text
                    else replace(replace(replace(a.value #>> '{}', ' ', ''), chr(160), ''), ',', '.') end as amount
          from public.submissions s
          join public.template_questions q on q.org_id = s.org_id and q.template_id = s.template_id
          join public.template_question_accounting m on m.org_id = q.org_id and m.question_id = q.id and m.event = p_event
          join public.submission_answers a on a.org_id = s.org_id and a.submission_id = s.id and a.question_id = q.id
         where s.org_id = p_org and s.id = p_submission and a.value not in ('null', '""', '[]')
    ),
    amounts as (
        select x.*, case when x.amount ~ '^-?[0-9]{1,11}(\.[0-9]{1,2})?$' then x.amount::numeric * 100 end as ore,
               case x.vat_code when 'MP1' then 25 when 'MP2' then 12 when 'MP3' then 6 end as percent
          from answers x
    ),
    -- VAT is rounded once for a mapping, so that its lines have the same sum as its answers.
    sums as (
        select id, question_id, account, side, vat_code, series, cost_center, percent, sum(ore) as ore, round(sum(ore) * percent / (100 + percent)) as vat
          from amounts group by id, question_id, account, side, vat_code, series, cost_center, percent
    ),
    vat_accounts as (
        select distinct on (a.vat_code) a.vat_code, a.number from public.fortnox_accounts a
         where a.org_id = p_org and a.year_id = p_year and a.active and a.vat_code in ('U1', 'U2', 'U3')
         order by a.vat_code, a.number not in (2611, 2621, 2631), a.number
    ),
    lines as (
        select s.series, s.account, s.side, s.cost_center, s.ore - coalesce(s.vat, 0) as ore, null::jsonb as problem from sums s
        union all
        select s.series, v.number, s.side, null, s.vat,
               case when v.number is null then jsonb_build_object('code', 'vat_account_missing', 'account', s.account, 'vat_code', s.vat_code) end
          from sums s left join vat_accounts v on v.vat_code = 'U' || right(s.vat_code, 1)
         where s.vat <> 0
        union all
        select x.series, x.account, x.side, null, 0, jsonb_build_object('code', 'answer_not_an_amount', 'question_id', x.question_id)
          from amounts x where x.ore is null
        union all
        select s.series, s.account, s.side, null, 0, jsonb_build_object('code', 'vat_code_differs', 'account', s.account, 'vat_code', s.vat_code)
          from sums s join public.fortnox_accounts a on a.org_id = p_org and a.year_id = p_year and a.number = s.account
         where s.vat_code is not null and a.vat_code is not null and a.vat_code <> s.vat_code
    )
    select l.series, l.account, case when l.ore < 0 then case l.side when 'debit' then 'credit' else 'debit' end else l.side end, l.cost_center,
           abs(l.ore), l.problem
      from lines l where l.ore <> 0 or l.problem is not null
$$;

-- Proposes what a submission is mapped to, a voucher for each series, in the name of the person who approved the submission. What could not be
-- proposed is kept with what is missing. By hand, one that was refused or failed is proposed again. The submission is locked.
create function app.propose_from_submission(p_org uuid, p_submission uuid, p_event text, p_source text, p_day date, p_proposer uuid,
                                            p_by_hand boolean, p_payment jsonb)
    returns jsonb language plpgsql volatile set search_path = '' as $$
declare
    s          public.submissions;
    v_tenant   text;
    v_year     bigint := app.fortnox_year(p_org, p_day);
    v_series   text;
    v_key      text;
    v_checked  record;
    v_id       uuid;
    v_payload  jsonb;
    v_proposed jsonb := '[]';
    v_already  integer := 0;
    v_problems jsonb := '[]';
    v_found    jsonb;
begin
    select * into s from public.submissions x where x.org_id = p_org and x.id = p_submission for no key update;
    if not exists (select from public.template_questions q join public.template_question_accounting m on m.org_id = q.org_id and m.question_id = q.id
                    where q.org_id = p_org and q.template_id = s.template_id and m.event = p_event) then
        return jsonb_build_object('proposed', v_proposed, 'already', 0, 'problems', v_problems);
    end if;
    select i.external_tenant_id into v_tenant from public.org_integrations i
     where i.org_id = p_org and i.provider = 'fortnox' and i.status = 'connected';
    if v_tenant is null then
        v_problems := '[{"code": "not_connected"}]';
    elsif not app.books_read(p_org) then
        v_problems := '[{"code": "books_not_read"}]';
    elsif v_year is null then
        v_problems := jsonb_build_array(jsonb_build_object('code', 'financial_year_missing', 'date', p_day));
    else
        for v_series in select distinct l.series from app.mapped_lines(p_org, p_submission, p_event, v_year) l order by 1 loop
            v_key := p_source || ' ' || v_series;
            if exists (select from public.accounting_writes w join public.approvals a on a.org_id = w.org_id and a.subject_id = w.id
                        where w.org_id = p_org and w.source_key = v_key
                          -- Numbers of invoices are a company's own.
                          and (p_event <> 'payment' or w.external_tenant_id = v_tenant)
                          and (a.status in ('approved', 'overdue', 'executing', 'unknown', 'executed')
                               or a.status in ('refused', 'failed') and not p_by_hand
                               or a.status = 'proposed' and a.expires_at > clock_timestamp())) then
                v_already := v_already + 1;
                continue;
            end if;
            select jsonb_agg(distinct l.problem) into v_found
              from app.mapped_lines(p_org, p_submission, p_event, v_year) l where l.series = v_series and l.problem is not null;
            if v_found is not null then
                v_problems := v_problems || v_found;
                continue;
            end if;
            select jsonb_build_object(
                       'series', v_series, 'date', p_day,
                       'description', (select coalesce(nullif(left(btrim(app.without_refused_characters(t.name || ': ' || c.name)), 180), ''), 'Spine')
                                         from public.templates t, public.clients c
                                        where t.org_id = p_org and t.id = s.template_id and c.org_id = p_org and c.id = s.client_id),
                       'rows', jsonb_agg(jsonb_strip_nulls(jsonb_build_object('account', r.account, 'debit', r.debit, 'credit', r.credit, 'cost_center', r.cost_center))
                                         order by r.account, r.cost_center nulls first, r.debit desc))
              into v_payload
              from (select l.account, l.cost_center, case l.side when 'debit' then sum(l.ore)::bigint else 0 end as debit,
                           case l.side when 'credit' then sum(l.ore)::bigint else 0 end as credit
                      from app.mapped_lines(p_org, p_submission, p_event, v_year) l
                     where l.series = v_series group by l.account, l.cost_center, l.side) r;
            select * into v_checked from app.voucher_of(p_org, v_payload);
            if v_checked.voucher is null then
                v_problems := v_problems || v_checked.problems;
                continue;
            end if;
            insert into public.accounting_writes (id, org_id, client_id, kind, payload, payload_hash, external_tenant_id, source_key, submission_id)
            values (app.uuidv7(), p_org, s.client_id, 'voucher', v_checked.voucher, app.payload_digest(v_checked.voucher), v_tenant, v_key, s.id)
            returning id into v_id;
            v_proposed := v_proposed || to_jsonb(app.open_approval(p_org, 'voucher', 'accounting_writes', v_id, s.client_id,
                                                                   app.payload_digest(v_checked.voucher), p_proposer, null, '7 days'));
        end loop;
    end if;
    if v_problems = '[]' then
        delete from public.unproposed_vouchers u where u.org_id = p_org and u.source_key = p_source;
    else
        insert into public.unproposed_vouchers (org_id, source_key, client_id, submission_id, problems, payment)
        values (p_org, p_source, s.client_id, s.id, v_problems, p_payment)
        on conflict (org_id, source_key) do update
           set problems = excluded.problems, client_id = excluded.client_id, submission_id = excluded.submission_id;
    end if;
    return jsonb_build_object('proposed', v_proposed, 'already', v_already, 'problems', v_problems);
end
$$;
comment on function app.propose_from_submission(uuid, uuid, text, text, date, uuid, boolean, jsonb) is
    'Proposes what a submission is mapped to, and keeps what could not be proposed with what is missing. {"proposed","already","problems"}';

create function app.propose_on_approval() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    -- Without a company there is nothing that could be missing.
    if exists (select from public.org_integrations i where i.org_id = new.org_id and i.provider = 'fortnox') then
        perform app.propose_from_submission(new.org_id, new.submission_id, 'approval', 'submission ' || new.submission_id || ' approval',
                                            (now() at time zone 'Europe/Stockholm')::date, new.reviewer_id, false, null);
    end if;
    return null;
end
$$;
grant execute on function app.propose_on_approval() to spine_owner;

-- Who approved a submission.
create function app.reviewer_of(p_org uuid, p_submission uuid) returns uuid language sql stable set search_path = '' as $$
    select r.reviewer_id from public.submission_reviews r
     where r.org_id = p_org and r.submission_id = p_submission and r.decision = 'approved' order by r.created_at desc, r.id desc limit 1
$$;

create function public.propose_submission_vouchers(submission_id uuid) returns jsonb
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_variable
declare
    v_org uuid := app.active_org_id();
    s     public.submissions;
begin
    perform app.signed_in();
    if v_org is null or not app.may('accounting:propose') then
        perform app.refuse('PT403', 'proposal_not_allowed', 'Proposing what is written to books takes the right accounting:propose.');
    end if;
    select * into s from public.submissions x where x.org_id = v_org and x.id = propose_submission_vouchers.submission_id;
    if s.id is null or s.status = 'draft'
       or not app.may('accounting:read') and not coalesce(s.client_id = any (app.my_consulted_client_ids()), false) then
        perform app.refuse('PT404', 'submission_not_found', 'There is no such submission.');
    end if;
    if s.status <> 'approved' then
        perform app.refuse('PT409', 'submission_not_approved', 'A voucher is proposed for a submission that was approved.');
    end if;
    -- In the name of the person who approved it. A person who asks for it again does not become the proposer, and may approve the voucher.
    return app.propose_from_submission(v_org, s.id, 'approval', 'submission ' || s.id || ' approval',
                                       (s.reviewed_at at time zone 'Europe/Stockholm')::date, app.reviewer_of(v_org, s.id), true, null);
end
$$;
comment on function public.propose_submission_vouchers(uuid) is
    'Proposes the vouchers of an approved submission, where that was not possible when it was approved. {"proposed","already","problems"}';

-- Proposes the vouchers of an invoice that was paid, for the one submission of the client whose vouchers have its total and that no other
-- invoice has paid: the one that the invoice refers to, if it refers to one. What is not proposed is kept, and tried again. proposed, already,
-- problems, unmatched or other_customer.
create function app.propose_payment_vouchers(p_number text, p_customer text, p_paid_on date, p_total_ore bigint, p_reference text) returns text
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_org      uuid := app.service_org();
    v_source   text := 'invoice ' || p_number || ' payment';
    v_tenant   text;
    v_clients  uuid[];
    v_found    uuid[];
    v_year     bigint;
    v_outcome  jsonb;
    v_payment  jsonb := jsonb_build_object('number', p_number, 'customer', p_customer, 'paid_on', p_paid_on, 'total_ore', p_total_ore, 'reference', p_reference);
begin
    if current_setting('role') <> 'spine_service' or v_org is null then
        raise exception 'the system reads payments, in one organisation' using errcode = 'insufficient_privilege';
    end if;
    select i.external_tenant_id into v_tenant from public.org_integrations i where i.org_id = v_org and i.provider = 'fortnox';
    v_clients := array(select c.client_id from public.client_accounting c
                        where c.org_id = v_org and c.provider = 'fortnox' and c.customer_number = p_customer);
    if cardinality(v_clients) = 0 then
        return 'other_customer';
    end if;
    -- What was proposed for it before was proposed for this one.
    v_found := array(select distinct w.submission_id from public.accounting_writes w
                      where w.org_id = v_org and w.external_tenant_id = v_tenant and starts_with(w.source_key, v_source || ' ')
                        and w.submission_id is not null limit 1);
    if cardinality(v_found) = 0 then
        v_year := app.fortnox_year(v_org, p_paid_on);
        v_found := array(
            select s.id from public.submissions s
             where s.org_id = v_org and s.client_id = any (v_clients) and s.status = 'approved'
               and (lower(p_reference) ~ '^(sp-)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$') is not true
                or s.org_id = v_org and s.client_id = any (v_clients) and s.status = 'approved'
               and s.id::text = regexp_replace(lower(p_reference), '^sp-', '')
             limit 1000);
        v_found := array(
            select f.id from unnest(v_found) f (id)
             where not exists (select from public.accounting_writes w join public.approvals a on a.org_id = w.org_id and a.subject_id = w.id
                                where w.org_id = v_org and w.submission_id = f.id and w.source_key like 'invoice % payment %'
                                  and a.status not in ('expired', 'refused', 'failed'))
               and (select sum(l.ore) from app.mapped_lines(v_org, f.id, 'payment', v_year) l where l.side = 'debit' and l.problem is null) = p_total_ore
             limit 2);
    end if;
    if cardinality(v_found) <> 1 then
        insert into public.unproposed_vouchers (org_id, source_key, client_id, problems, payment)
        values (v_org, v_source, v_clients[1], '[{"code": "payment_unmatched"}]', v_payment)
        on conflict (org_id, source_key) do update set problems = excluded.problems;
        return 'unmatched';
    end if;
    v_outcome := app.propose_from_submission(v_org, v_found[1], 'payment', v_source, p_paid_on, app.reviewer_of(v_org, v_found[1]), false, v_payment);
    return case when v_outcome -> 'problems' <> '[]' then 'problems' when v_outcome -> 'proposed' <> '[]' then 'proposed' else 'already' end;
end
$$;
comment on function app.propose_payment_vouchers(text, text, date, bigint, text) is 'Proposes the vouchers of an invoice that was paid. What came of it.';

-- Tries again what could not be proposed for invoices that were paid within thirty days. How many.
create function app.retry_payment_vouchers(p_most integer) returns integer
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_org     uuid := app.service_org();
    v_payment jsonb;
    v_tried   integer := 0;
begin
    if current_setting('role') <> 'spine_service' or v_org is null then
        raise exception 'the system reads payments, in one organisation' using errcode = 'insufficient_privilege';
    end if;
    delete from public.unproposed_vouchers u where u.org_id = v_org and u.payment is not null and u.created_at < now() - interval '30 days';
    for v_payment in select u.payment from public.unproposed_vouchers u
                      where u.org_id = v_org and u.payment is not null order by u.updated_at limit least(p_most, 1000) loop
        perform app.propose_payment_vouchers(v_payment ->> 'number', v_payment ->> 'customer', (v_payment ->> 'paid_on')::date,
                                             (v_payment ->> 'total_ore')::bigint, v_payment ->> 'reference');
        v_tried := v_tried + 1;
    end loop;
    return v_tried;
end
$$;
comment on function app.retry_payment_vouchers(integer) is 'Tries again what could not be proposed for invoices that were paid. How many.';

-- Numbers of customers, leave to write to their books and payments that were read are of one company. With another, people begin again.
create function app.forget_company() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    update public.client_accounting c set customer_number = null, can_write = false
     where c.org_id = new.org_id and c.provider = new.provider and (c.can_write or c.customer_number is not null);
    delete from public.accounting_payment_reads r where r.org_id = new.org_id;
    delete from public.unproposed_vouchers u where u.org_id = new.org_id and u.payment is not null;
    return null;
end
$$;
grant execute on function app.forget_company() to spine_owner;

-- Queues a look at payments in connected organisations that have mapped vouchers to them, once in each quarter of an hour.
create function app.queue_payment_reads(p_most integer) returns integer
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_quarter timestamptz := date_bin('15 minutes', clock_timestamp(), '2000-01-01');
    v_queued  integer;
begin
    if current_setting('role') <> 'spine_service' then
        raise exception 'the system reads payments' using errcode = 'insufficient_privilege';
    end if;
    with due as materialized (
        select s.org_id from public.fortnox_sync_state s where s.payments_after <= now()
         order by s.payments_after limit least(p_most, 1000) for update skip locked
    ),
    looked_at as (
        update public.fortnox_sync_state s set payments_after = v_quarter + interval '15 minutes'
         where s.org_id = any (array(select d.org_id from due d)) returning s.org_id
    )
    insert into public.jobs (org_id, job_type, payload, unique_key)
    select i.org_id, 'accounting_payments', jsonb_build_object('do', 'payments'), v_quarter::text
      from public.org_integrations i
     where i.provider = 'fortnox' and i.status = 'connected' and i.org_id = any (array(select l.org_id from looked_at l))
       and (select true from public.template_question_accounting m where m.org_id = i.org_id and m.event = 'payment' limit 1)
    on conflict (org_id, job_type, unique_key) where unique_key is not null do nothing;
    get diagnostics v_queued = row_count;
    return v_queued;
end
$$;
comment on function app.queue_payment_reads(integer) is 'Queues a look at payments, once in each quarter of an hour for each organisation. How many.';

-- What a template's mappings lack in the books of today''s year.
create function public.check_accounting_mappings(template_id uuid) returns jsonb
    language plpgsql stable security definer set search_path = '' as $$
#variable_conflict use_variable
declare
    v_org  uuid := app.active_org_id();
    v_year bigint;
begin
    perform app.signed_in();
    if v_org is null or not app.may('templates:read')
       or not exists (select from public.templates t where t.org_id = v_org and t.id = check_accounting_mappings.template_id) then
        perform app.refuse('PT404', 'template_not_found', 'There is no such template.');
    end if;
    if not app.books_read(v_org) then
        return '{"problems": [{"code": "books_not_read"}]}';
    end if;
    v_year := app.fortnox_year(v_org, (now() at time zone 'Europe/Stockholm')::date);
    if v_year is null then
        return '{"problems": [{"code": "financial_year_missing"}]}';
    end if;
    return (
        with mapped as (
            select m.*, q.kind from public.template_questions q
              join public.template_question_accounting m on m.org_id = q.org_id and m.question_id = q.id
             where q.org_id = v_org and q.template_id = check_accounting_mappings.template_id
        ),
        problems as (
            select p.code, m.question_id, m.event, m.account::integer as account, m.voucher_series
              from mapped m cross join lateral unnest(app.account_problems(v_org, v_year, m.account::integer, m.cost_center)) p (code)
            union all
            select app.series_problem(v_org, v_year, m.voucher_series), m.question_id, m.event, null, m.voucher_series from mapped m
            union all
            select 'question_not_an_amount', m.question_id, m.event, null, null from mapped m where m.kind not in ('money', 'number')
            union all
            select 'vat_code_differs', m.question_id, m.event, a.number, null
              from mapped m join public.fortnox_accounts a on a.org_id = v_org and a.year_id = v_year and a.number = m.account::integer
             where m.vat_code is not null and a.vat_code is not null and a.vat_code <> m.vat_code
            union all
            select 'vat_account_missing', m.question_id, m.event, m.account::integer, null from mapped m
             where m.vat_code in ('MP1', 'MP2', 'MP3')
               and not exists (select from public.fortnox_accounts a where a.org_id = v_org and a.year_id = v_year and a.active
                                  and a.vat_code = 'U' || right(m.vat_code, 1))
            union all
            select 'side_missing', null, m.event, null, m.voucher_series from mapped m
             group by m.event, m.voucher_series having count(distinct m.side) < 2
        )
        select jsonb_build_object('year_id', v_year, 'problems', coalesce(jsonb_agg(distinct jsonb_strip_nulls(to_jsonb(p))) filter (where p.code is not null), '[]'))
          from problems p);
end
$$;
comment on function public.check_accounting_mappings(uuid) is
    'What a template''s mappings lack in the books of this year as they were read last: {"year_id","problems":[{"code","question_id","account",…}]}.';

grant execute on function public.propose_submission_vouchers(uuid), public.check_accounting_mappings(uuid) to authenticated, spine_caller;
grant execute on function app.propose_payment_vouchers(text, text, date, bigint, text), app.queue_payment_reads(integer), app.retry_payment_vouchers(integer)
    to spine_service;

reset role;
revoke create on schema public from spine_definer;
set local role spine_owner;

create trigger org_integrations_forget_company after update of external_tenant_id on public.org_integrations
    for each row when (old.external_tenant_id is not null and new.external_tenant_id is distinct from old.external_tenant_id)
    execute function app.forget_company();
create trigger submission_reviews_propose after insert on public.submission_reviews
    for each row when (new.decision = 'approved') execute function app.propose_on_approval();

reset role;
