-- Make clients of customers in an organisation's Fortnox, matched by organisation number, then by name.
--
-- Locks:   clients and client_accounting exclusively, for the moment that a column, a check, indexes and policies take.
-- Rollout: expand.
-- Undo:    drop the functions, policies, indexes and the column of this file.

set local role spine_owner;

-- Ten digits, however they are written: with dash or without, with a century before them or not. Null for what is none.
create function app.org_number(p_text text) returns text
    language sql immutable set search_path = '' as $$
    select case when d.digits ~ '^[0-9]{10}$' then d.digits
                when d.digits ~ '^(16|19|20)[0-9]{10}$' then right(d.digits, 10) end
      from (select regexp_replace(p_text, '[^0-9]', '', 'g') as digits) d
$$;
comment on function app.org_number(text) is 'The ten digits of an organisation number, however it is written. Null for what is none.';

-- Whether an organisation number is that of a person: it begins with a day of birth, to which 60 is added for some. That of a company has 20 or
-- more where a month would be.
create function app.is_persons_number(p_number text) returns boolean
    language sql immutable set search_path = '' as $$
    select substr(p_number, 3, 2) between '01' and '12' and (substr(p_number, 5, 2) between '01' and '31' or substr(p_number, 5, 2) between '61' and '91')
$$;
comment on function app.is_persons_number(text) is 'Whether the ten digits of an organisation number are those of a person.';

-- What two spellings of a name have in common: case is folded, and blanks are one each.
create function app.name_key(p_name text) returns text
    language sql immutable set search_path = '' as $$
    select lower(btrim(regexp_replace(p_name, '\s+', ' ', 'g')))
$$;
comment on function app.name_key(text) is 'A name with its case folded and its blanks collapsed, to compare it with another.';

alter table public.clients
    add column org_number text,
    add constraint clients_org_number_check check (org_number ~ '^[0-9]{10}$');
comment on column public.clients.org_number is 'The organisation number: its ten digits.';
create index clients_org_id_org_number_idx on public.clients (org_id, org_number);
create index client_accounting_org_id_customer_number_idx on public.client_accounting (org_id, customer_number);
create index clients_org_id_name_key_idx on public.clients (org_id, app.name_key(name));
grant insert (org_number), update (org_number) on public.clients to authenticated;
grant update (org_number) on public.clients to spine_definer;
create policy clients_definer_update on public.clients for update to spine_definer using (true);

create policy client_accounting_definer_insert on public.client_accounting for insert to spine_definer with check (true);
create policy client_accounting_definer_update on public.client_accounting for update to spine_definer using (true);
grant insert (org_id, client_id, provider, customer_number), update (customer_number) on public.client_accounting to spine_definer;
create policy fortnox_customers_definer_select on public.fortnox_customers for select to spine_definer using (true);
create policy fortnox_customers_definer_update on public.fortnox_customers for update to spine_definer using (true);
grant select, update (client_id) on public.fortnox_customers to spine_definer;

grant execute on function app.org_number(text), app.is_persons_number(text), app.name_key(text) to spine_definer, spine_service, spine_caller, authenticated;

reset role;
set local role spine_definer;

-- Makes clients of customers, or links them with clients that are there; of those that are named, or of `p_most` after a number. What became
-- of each stands in the report under created, linked, already, conflicting or skipped; `next` is the number to go on after, if there are more.
-- Writing to a client's books is never enabled by this.
--
-- For people who may change accounting and make clients. One import of an organisation at a time, so that two at once make each client once.
create function app.import_fortnox_customers(p_numbers text[], p_after text, p_most integer) returns jsonb
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_org     uuid := app.active_org_id();
    v_report  jsonb := '{"created": [], "linked": [], "already": [], "conflicting": [], "skipped": []}';
    v_last    text;
    v_count   integer := 0;
    v_more    boolean := false;
    v_outcome text;
    v_entry   jsonb;
    v_reason  text;
    v_by      text;
    v_name    text;
    v_number  text;
    v_client  uuid;
    v_other   text;
    v_found   uuid[];
    c         record;
begin
    if v_org is null or not (app.may('accounting:update') and app.may('clients:create')) then
        raise exception 'this asks for accounting:update and clients:create' using errcode = 'insufficient_privilege';
    end if;
    if p_most not between 1 and 1000 then
        raise exception 'an import takes 1 to 1000 customers' using errcode = 'invalid_parameter_value';
    end if;
    perform pg_advisory_xact_lock(hashtextextended('fortnox_import:' || v_org, 0));

    for c in
        select w.number, f.data, f.active, f.kind, f.client_id, f.customer_number is null or f.deleted_at is not null as is_missing
          from (select distinct n.number from unnest(p_numbers) n (number)
                union all
                select x.customer_number from public.fortnox_customers x
                 where p_numbers is null and x.org_id = v_org and x.deleted_at is null
                   and x.customer_number collate "C" > coalesce(p_after, '')) w
          left join public.fortnox_customers f on f.org_id = v_org and f.customer_number = w.number
         order by w.number collate "C" limit p_most + 1
    loop
        v_count := v_count + 1;
        if v_count > p_most then
            v_more := true;
            exit;
        end if;
        v_last := c.number;
        v_client := c.client_id;
        v_reason := null;
        v_by := null;
        v_name := btrim(regexp_replace(c.data ->> 'Name', '\s+', ' ', 'g'));
        v_number := app.org_number(c.data ->> 'OrganisationNumber');
        v_outcome := case
            when c.is_missing then 'skipped' when c.client_id is not null then 'already'
            when coalesce(v_name, '') = '' or c.active = false or c.kind = 'PRIVATE'
                 -- Who trades in their own name has a person's number, and is a company to Fortnox.
                 or app.is_persons_number(v_number) and c.kind is distinct from 'COMPANY' then 'skipped' end;
        if c.is_missing then
            v_reason := 'not_found';
        elsif v_outcome = 'skipped' then
            v_reason := case when coalesce(v_name, '') = '' then 'no_name' when c.active = false then 'inactive' else 'private' end;
        end if;

        if v_outcome is null then
            -- A person has linked them already.
            select array_agg(a.client_id) into v_found from public.client_accounting a
             where a.org_id = v_org and a.provider = 'fortnox' and a.customer_number = c.number;
            v_by := 'accounting';
            if v_found is null and v_number is not null then
                select array_agg(k.id) into v_found from public.clients k where k.org_id = v_org and k.org_number = v_number;
                v_by := 'org_number';
            end if;
            if v_found is null then
                -- A client with another number is another company.
                select array_agg(k.id) into v_found from public.clients k
                 where k.org_id = v_org and app.name_key(k.name) = app.name_key(left(v_name, 200))
                   and (k.org_number is null or v_number is null);
                v_by := 'name';
            end if;
            v_client := v_found[1];
            select a.customer_number into v_other from public.client_accounting a
             where a.org_id = v_org and a.client_id = v_client and a.provider = 'fortnox';
            if cardinality(v_found) > 1 then
                v_outcome := 'conflicting';
                v_reason := 'several_clients_by_' || v_by;
            elsif v_client is not null
                  and (v_other <> c.number
                       or exists (select from public.fortnox_customers x where x.org_id = v_org and x.client_id = v_client)) then
                v_outcome := 'conflicting';
                v_reason := 'client_has_another_customer';
            elsif v_client is not null and exists (select from public.clients k where k.id = v_client and k.status = 'archived') then
                v_outcome := 'conflicting';
                v_reason := 'client_archived';
            elsif v_client is not null then
                v_outcome := 'linked';
                update public.clients k set org_number = v_number where k.id = v_client and k.org_number is null and v_number is not null;
            else
                v_outcome := 'created';
                insert into public.clients (org_id, name, email, phone, address, org_number)
                values (v_org, left(v_name, 200), nullif(c.data ->> 'Email', ''), nullif(c.data ->> 'Phone', ''),
                        nullif(concat_ws(', ', nullif(c.data ->> 'Address1', ''), nullif(c.data ->> 'Address2', ''),
                                         nullif(concat_ws(' ', nullif(c.data ->> 'ZipCode', ''), nullif(c.data ->> 'City', '')), '')), ''), v_number)
                returning id into v_client;
            end if;
            if v_outcome in ('created', 'linked') then
                insert into public.client_accounting as a (org_id, client_id, provider, customer_number) values (v_org, v_client, 'fortnox', c.number)
                on conflict (org_id, client_id, provider) do update set customer_number = excluded.customer_number where a.customer_number is null;
                update public.fortnox_customers x set client_id = v_client where x.org_id = v_org and x.customer_number = c.number;
            end if;
        end if;

        v_entry := jsonb_strip_nulls(jsonb_build_object(
            'customer_number', c.number, 'reason', v_reason,
            'client_id', case when v_outcome in ('created', 'linked', 'already') then v_client end,
            'by', case when v_outcome = 'linked' then v_by end));
        v_report := jsonb_set(v_report, array[v_outcome], v_report -> v_outcome || v_entry);
    end loop;
    return v_report || jsonb_build_object('next', case when v_more then v_last end);
end
$$;
comment on function app.import_fortnox_customers(text[], text, integer) is 'Makes clients of customers in Fortnox, or links them, and reports what became of each.';
grant execute on function app.import_fortnox_customers(text[], text, integer) to spine_caller;

reset role;
