-- Give organisations a time zone.
--
-- Locks:   organizations exclusively, for the moment that adding a column with a constant default, its check and exchanging triggers takes.
-- Rollout: expand. An organisation is in UTC until it says otherwise, one made later too: which zone its people live in cannot be known
--          from what is asked of it, and a guess would be found out only when a day's figures look wrong.
-- Undo:    drop the column and the trigger's function, make the audit triggers as 20261121001000 does, and my_organizations as
--          20261121001100 does.

set local role spine_owner;

alter table public.organizations add column time_zone text not null default 'UTC';
alter table public.organizations add constraint organizations_time_zone_check check (length(time_zone) <= 64) not valid;
alter table public.organizations validate constraint organizations_time_zone_check;
comment on column public.organizations.time_zone is
    'Whose days, weeks and months the organisation''s are: a name of the tz database with a slash, or UTC.';
grant select (time_zone), update (time_zone) on public.organizations to authenticated;
grant select (time_zone) on public.organizations to spine_agent;

drop trigger organizations_audit_insert on public.organizations;
drop trigger organizations_audit_update on public.organizations;
drop trigger organizations_audit_delete on public.organizations;
call app.audit_table('organizations', 'id', 'slug,plan,time_zone');

reset role;
grant create on schema public to spine_definer;
set local role spine_definer;

-- Not a check: the names are in files of the server, and a backup must restore where they are other ones.
create function app.check_time_zone() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    if not app.is_time_zone(new.time_zone) then
        perform app.refuse('PT422', 'time_zone_unknown',
                           'A time zone is a name of the tz database with a slash, such as Europe/Stockholm, or UTC.');
    end if;
    return null;
end
$$;
comment on function app.check_time_zone() is 'Refuses what is no time zone, where it is another than before.';
grant execute on function app.check_time_zone() to spine_owner;

-- squawk-ignore ban-drop-function
drop function public.my_organizations(); -- Made again below, with one column more.
create function public.my_organizations() returns table (id uuid, name text, slug text, time_zone text)
    language plpgsql stable security definer set search_path = '' as $$
#variable_conflict use_column
declare
    v_user uuid := app.signed_in();
begin
    return query select o.id, o.name, o.slug, o.time_zone from public.organizations o where o.id in (
        select m.org_id from public.org_members m where m.user_id = v_user
        union select c.org_id from public.org_consultants c where c.user_id = v_user
        union select u.org_id from public.client_users u where u.user_id = v_user) order by o.name, o.id;
end
$$;
comment on function public.my_organizations() is 'The organisations that the person belongs to.';
grant execute on function public.my_organizations() to authenticated;

reset role;
revoke create on schema public from spine_definer;
set local role spine_owner;

create trigger organizations_time_zone_insert after insert on public.organizations
    for each row when (new.time_zone <> 'UTC') execute function app.check_time_zone();
create trigger organizations_time_zone_update after update of time_zone on public.organizations
    for each row when (new.time_zone is distinct from old.time_zone) execute function app.check_time_zone();

reset role;
