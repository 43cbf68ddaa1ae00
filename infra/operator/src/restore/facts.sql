-- What a database holds of what migrations make, a row each: what it is (`kind`, `object`), what it belongs to (`parent`), how it is
-- made up (`definition`, compared as text) and, for what lies outside `public` and `app`, the statements that make it and remove it.
--
-- Run with an empty search_path, so that every name is spelled with its schema. Expressions are printed without the parentheses that
-- a dump adds. `<migrator>` stands for the role that migrates, which has another name on each server. Partitions are left out: they
-- are made as messages come.
with
migrator as (
    select coalesce((select c.relowner from pg_class c where c.oid = to_regclass('public._sqlx_migrations')),
                    (select r.oid from pg_roles r where r.rolname = current_user)) as oid),
roles as (
    select r.oid, case when r.oid = m.oid then '<migrator>' else format('%I', r.rolname) end as name,
           r.rolname like 'spine\_%' as ours,
           r.rolname in ('anon', 'authenticated', 'service_role', 'authenticator') as api
      from pg_roles r, migrator m
    union all
    select 0, 'public', false, false),
schemas as (
    select n.*, n.nspname in ('public', 'app') as inside from pg_namespace n
     where n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast') and n.nspname not like 'pg\_temp%'),
relations as (
    select c.*, format('%I.%I', n.nspname, c.relname) as name, n.inside
      from pg_class c join schemas n on n.oid = c.relnamespace
     where not c.relispartition and c.relkind in ('r', 'p', 'v', 'm', 'S')),
functions as (
    select p.*, p.oid::regprocedure::text as name from pg_proc p join schemas n on n.oid = p.pronamespace
     where n.inside and p.prokind <> 'a'
       and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')),
policies as (
    select p.*, r.name as on_table, r.inside,
           (select string_agg(o.name, ', ' order by o.name) from roles o where o.oid = any (p.polroles)) as granted,
           pg_get_expr(p.polqual, p.polrelid, true) as using, pg_get_expr(p.polwithcheck, p.polrelid, true) as checks,
           case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end as verb
      from pg_policy p join relations r on r.oid = p.polrelid),
triggers as (
    select t.*, r.name as on_table, r.inside,
           case t.tgenabled when 'O' then 'enabled' when 'A' then 'enabled always' when 'R' then 'enabled for replicas'
                            else 'disabled' end as fires
      from pg_trigger t join relations r on r.oid = t.tgrelid join pg_proc p on p.oid = t.tgfoid join schemas n on n.oid = p.pronamespace
     where not t.tgisinternal and t.tgparentid = 0 and (r.inside or n.inside)),
granted as (
    select 'on ' || r.name as target, r.name as parent, r.inside, a.grantee, lower(a.privilege_type) as verb, a.is_grantable
      from relations r cross join aclexplode(coalesce(r.relacl, acldefault(case r.relkind when 'S' then 's' else 'r' end::"char", r.relowner))) a
     where a.grantee <> r.relowner
       -- What a newer server adds to the list is nothing that migrations grant.
       and a.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', 'USAGE')
    union all
    select format('(%I) on %s', c.attname, r.name), format('%s.%I', r.name, c.attname), r.inside, a.grantee, lower(a.privilege_type), a.is_grantable
      from pg_attribute c join relations r on r.oid = c.attrelid cross join aclexplode(c.attacl) a
     where a.grantee <> r.relowner and not c.attisdropped
    union all
    select 'on function ' || f.name, f.name, true, a.grantee, lower(a.privilege_type), a.is_grantable
      from functions f cross join aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a
     where a.grantee <> f.proowner
    union all
    select format('on schema %I', n.nspname), format('schema %I', n.nspname), false, a.grantee, lower(a.privilege_type), a.is_grantable
      from schemas n cross join aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
     where a.grantee <> n.nspowner)

select 'table' as kind, r.name as object, r.name as parent,
       concat_ws(', ', case r.relkind when 'r' then 'table' when 'p' then 'partitioned table' when 'v' then 'view'
                                      when 'm' then 'materialized view' else 'sequence' end,
                 'owned by ' || o.name,
                 case when r.relkind in ('r', 'p') then
                     'row security ' || case when not r.relrowsecurity then 'off' when r.relforcerowsecurity then 'forced' else 'on' end end,
                 array_to_string(r.reloptions, ', '), pg_get_viewdef(case when r.relkind in ('v', 'm') then r.oid end, true)) as definition,
       null as make, null as remove
  from relations r join roles o on o.oid = r.relowner
 where r.inside
union all
select 'column', format('%s.%I', r.name, c.attname), r.name,
       concat_ws(', ', format_type(c.atttypid, c.atttypmod), case when c.attnotnull then 'not null' end,
                 nullif('identity ' || c.attidentity::text, 'identity '), nullif('generated ' || c.attgenerated::text, 'generated '),
                 pg_get_expr(d.adbin, d.adrelid, true)),
       null, null
  from relations r join pg_attribute c on c.attrelid = r.oid left join pg_attrdef d on d.adrelid = c.attrelid and d.adnum = c.attnum
 where r.inside and r.relkind <> 'S' and c.attnum > 0 and not c.attisdropped
union all
select 'constraint', format('%I of %s', k.conname, r.name), r.name, pg_get_constraintdef(k.oid, true), null, null
  from pg_constraint k join relations r on r.oid = k.conrelid
 where r.inside and k.contype in ('p', 'u', 'c', 'f', 'x') and k.conparentid = 0
union all
select 'index', format('%I on %s', x.relname, r.name), r.name,
       pg_get_indexdef(i.indexrelid) || case when i.indisvalid then '' else ', not valid' end, null, null
  from pg_index i join relations r on r.oid = i.indrelid join pg_class x on x.oid = i.indexrelid
 where r.inside
union all
select 'function', f.name, f.name, format('owned by %s, %s', o.name, pg_get_functiondef(f.oid)), null, null
  from functions f join roles o on o.oid = f.proowner
union all
select 'policy', format('%I on %s', p.polname, p.on_table), p.on_table,
       concat_ws(', ', case when p.polpermissive then 'permissive' else 'restrictive' end, 'for ' || p.verb, 'to ' || p.granted,
                 'using ' || p.using, 'with check ' || p.checks),
       case when not p.inside then
           concat_ws(' ', format('create policy %I on %s as %s for %s to %s', p.polname, p.on_table,
                                 case when p.polpermissive then 'permissive' else 'restrictive' end, p.verb, p.granted),
                     'using (' || p.using || ')', 'with check (' || p.checks || ')') end,
       case when not p.inside then format('drop policy %I on %s', p.polname, p.on_table) end
  from policies p
union all
-- Policies hold where row-level security is on, and that is the platform's to switch.
select 'row security', r.name, r.name, case when r.relrowsecurity then 'on' else 'off' end,
       format('alter table %s enable row level security', r.name), null
  from relations r where not r.inside and exists (select from policies p where p.polrelid = r.oid)
union all
select 'trigger', format('%I on %s', t.tgname, t.on_table), t.on_table, format('%s, %s', pg_get_triggerdef(t.oid), t.fires),
       case when not t.inside then
           pg_get_triggerdef(t.oid) || case t.tgenabled when 'A' then format('; alter table %s enable always trigger %I', t.on_table, t.tgname)
                                                        else '' end end,
       case when not t.inside then format('drop trigger %I on %s', t.tgname, t.on_table) end
  from triggers t
union all
-- Inside, everybody's rights are ours to say; outside, those of our own roles.
select 'grant', format('%s %s to %s', g.verb, g.target, r.name), g.parent,
       case when g.is_grantable then 'with grant option' else 'granted' end,
       case when not g.inside then format('grant %s %s to %s', g.verb, g.target, r.name) end,
       case when not g.inside then format('revoke %s %s from %s', g.verb, g.target, r.name) end
  from granted g join roles r on r.oid = g.grantee
 where g.inside or r.ours or (g.parent = 'schema app' and r.name <> '<migrator>')
union all
select 'schema', 'app', 'schema app', 'owned by ' || r.name, 'create schema app', null
  from schemas n join roles r on r.oid = n.nspowner where n.nspname = 'app'
union all
select 'extension', format('%I', e.extname), format('%I', e.extname), format('in schema %I', n.nspname),
       format('create schema if not exists %1$I; create extension %2$I with schema %1$I', n.nspname, e.extname), null
  from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'vector'
union all
-- Whether spine_functions may log in is the operator's: a second login takes its place when a password is changed.
select 'role', r.name, r.name, concat_ws(' ', a.spelled, x.further),
       format('do $make$ begin if to_regrole(%1$L) is null then create role %2$s %3$s; end if; end $make$; alter role %2$s with %4$s',
              r.name, r.name, case when p.rolcanlogin then 'login' else 'nologin' end, a.spelled),
       'alter role ' || r.name || ' with ' || regexp_replace(x.further, '(^| )', '\1no', 'g')
  from roles r join pg_roles p on p.oid = r.oid,
       lateral (select concat_ws(' ', case when p.rolinherit then 'inherit' else 'noinherit' end, 'connection limit ' || p.rolconnlimit) as spelled) a,
       -- No role of ours has any of these, and only a superuser may name some of them.
       lateral (select nullif(concat_ws(' ', case when p.rolcanlogin and p.rolname <> 'spine_functions' then 'login' end,
                                        case when p.rolsuper then 'superuser' end, case when p.rolbypassrls then 'bypassrls' end,
                                        case when p.rolcreaterole then 'createrole' end, case when p.rolcreatedb then 'createdb' end,
                                        case when p.rolreplication then 'replication' end), '') as further) x
 where r.ours
union all
select 'setting', format('%s of role %s', s.name, r.name), r.name, s.value,
       format('alter role %s set %s = %L', r.name, s.name, s.value), format('alter role %s reset %s', r.name, s.name)
  from roles r join pg_roles p on p.oid = r.oid,
       lateral (select split_part(c, '=', 1) as name, substr(c, strpos(c, '=') + 1) as value from unnest(p.rolconfig) c) s
 where r.ours
union all
-- Who makes a role is a member of it without a right, and a membership may be granted by several: the sum counts.
select 'membership', format('%s in %s', m.name, r.name), case when m.api then r.name else m.name end,
       concat_ws(', ', case when bool_or(a.inherit_option) then 'inherits' end, case when bool_or(a.set_option) then 'may become it' end),
       format('grant %s to %s with inherit %s, set %s', r.name, m.name, bool_or(a.inherit_option)::text, bool_or(a.set_option)::text),
       format('revoke %s from %s', r.name, m.name)
  from pg_auth_members a join roles r on r.oid = a.roleid join roles m on m.oid = a.member
 where (m.ours or (r.ours and (m.api or m.name = '<migrator>'))) and (a.inherit_option or a.set_option)
 group by r.name, m.name, m.api
union all
select 'default privileges', format('of %s for %s', r.name, case d.defaclobjtype when 'f' then 'functions' when 'r' then 'tables'
                                                            when 'S' then 'sequences' when 'T' then 'types' else 'schemas' end), r.name,
       coalesce((select string_agg(format('%s to %s', lower(a.privilege_type), g.name), ', ' order by g.name, a.privilege_type)
                   from aclexplode(d.defaclacl) a join roles g on g.oid = a.grantee where a.grantee <> d.defaclrole), 'to nobody'),
       case when d.defaclobjtype = 'f' then format('alter default privileges for role %s revoke execute on functions from public', r.name) end, null
  from pg_default_acl d join roles r on r.oid = d.defaclrole
 where r.ours and d.defaclnamespace = 0
order by 1, 2
