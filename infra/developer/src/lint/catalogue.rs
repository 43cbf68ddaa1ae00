//! The schema that migrations have made, read from the catalogue.

use anyhow::{Context, Result};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{Finding, expression};

/// A question whose answers, an object and what is wrong with it, must be none.
#[derive(Debug)]
struct Rule {
    name: &'static str,
    query: &'static str,
    remedy: &'static str,
}

/// What queries call by a short name, so that each says only what is its own.
const NAMES: &str = "
    with ours as (
        select c.*, format('%s.%s', n.nspname, c.relname) as name, n.nspname as schema
          from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname in ('public', 'app') and (n.nspname, c.relname) <> ('public', '_sqlx_migrations')),
    tables as (select * from ours where schema = 'public' and relkind in ('r', 'p') and not relispartition),
    partitions as (select * from ours where relkind in ('r', 'p') and relispartition),
    policies as (
        select p.*, format('%s.%s', n.nspname, c.relname) as on_table, c.relname
          from pg_policy p join pg_class c on c.oid = p.polrelid join pg_namespace n on n.oid = c.relnamespace
         where n.nspname in ('public', 'app') or (n.nspname, c.relname) in (('storage', 'objects'), ('realtime', 'messages'))),
    functions as (
        select p.*, p.oid::regprocedure::text as name from pg_proc p
         where p.pronamespace in ('public'::regnamespace, 'app'::regnamespace)
           and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')),
    privileges as (
        select c.oid, a.grantee from pg_class c, aclexplode(c.relacl) a where a.grantee <> c.relowner
        union
        select c.oid, a.grantee from pg_attribute t join pg_class c on c.oid = t.attrelid, aclexplode(t.attacl) a
         where a.grantee <> c.relowner)";

const QUERIES: [Rule; 17] = [
    Rule {
        name: "row-security",
        query: "select name, 'has no row-level security that also binds its owner' from ours
                 where relkind in ('r', 'p') and not (relrowsecurity and relforcerowsecurity)",
        remedy: "`alter table … enable row level security` and `force row level security`, where it is made",
    },
    Rule {
        name: "no-policy",
        query: "select name, 'has no policy' from tables t where not exists (select from pg_policy p where p.polrelid = t.oid)",
        remedy: "Say in policies who may do what; where nobody may, let `spine_definer` select",
    },
    Rule {
        name: "partition-door",
        query: "select name, 'is a partition with a policy or a grant of its own' from partitions t
                 where exists (select from pg_policy p where p.polrelid = t.oid)
                    or exists (select from privileges g where g.oid = t.oid)",
        remedy: "Revoke and drop them: only the root is a door",
    },
    Rule {
        name: "bookkeeping",
        query: "select 'public._sqlx_migrations', 'is open to the Data API' from pg_class c
                 where c.oid = to_regclass('public._sqlx_migrations')
                   and (not c.relrowsecurity or exists (select from privileges g where g.oid = c.oid))",
        remedy: "Migrate again: ./spine migrate closes it",
    },
    Rule {
        name: "view",
        query: "select name, case relkind when 'v' then 'is a view that reads with the rights of its owner'
                                          else 'is of a kind that has no row-level security' end
                  from ours
                 where schema = 'public'
                   and (relkind in ('m', 'f')
                        or (relkind = 'v'
                            and not coalesce(reloptions && array['security_invoker=true', 'security_invoker=on', 'security_invoker=1'],
                                             false)))",
        remedy: "Make it a view `with (security_invoker = true)`, so that policies hold for whoever asks",
    },
    Rule {
        name: "owner",
        query: "select name, format('is owned by %s', pg_get_userbyid(relowner)) from ours
                 where relkind in ('r', 'p', 'v', 'm', 'f', 'S') and pg_get_userbyid(relowner) <> 'spine_owner'",
        remedy: "Make it as the owner: `set local role spine_owner` in front",
    },
    Rule {
        name: "function-owner",
        query: "select name, format('is owned by %s', pg_get_userbyid(proowner)) from functions
                 where pg_get_userbyid(proowner) not in ('spine_owner', 'spine_definer')
                   -- Nobody calls a trigger's; and to send on Supabase's channels is for whoever migrates alone.
                   and prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)",
        remedy: "Make it as spine_owner, or as spine_definer if it reads the access chain",
    },
    Rule {
        name: "comment",
        query: "select name, 'has no comment' from tables where coalesce(obj_description(oid, 'pg_class'), '') = ''",
        remedy: "`comment on table … is` what a row of it is",
    },
    Rule {
        name: "ownership",
        query: "select name, 'has no row in data_ownership' from tables t
                 where not exists (select from public.data_ownership d where d.table_name = t.relname and d.column_name is null)",
        remedy: "Insert one, in the migration that makes the table: people, agents or the system write it",
    },
    Rule {
        name: "ownership-of-nothing",
        query: "select concat_ws('.', 'public', d.table_name, d.column_name), 'has a row in data_ownership and is not there'
                  from public.data_ownership d
                 where not exists (select from tables t
                                     join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
                                    where t.relname = d.table_name and a.attname = coalesce(d.column_name, a.attname))",
        remedy: "Delete the row, or mend its spelling",
    },
    Rule {
        name: "policy-to-public",
        query: "select on_table, format('has policy %s to everybody', polname) from policies where 0 = any (polroles)",
        remedy: "Name the roles: `create policy … to`",
    },
    Rule {
        name: "policy-doubled",
        query: "select p.on_table,
                       format('has more than one permissive policy to %s for %s: %s', r.rolname, v.spelled,
                              string_agg(p.polname, ', ' order by p.polname))
                  from policies p
                  join (values ('r', 'select'), ('a', 'insert'), ('w', 'update'), ('d', 'delete')) v (verb, spelled)
                    on p.polcmd in (v.verb::\"char\", '*')
                  -- A role that inherits another has its policies too.
                  join pg_roles r on exists (select from policies q where q.polrelid = p.polrelid and r.oid = any (q.polroles))
                                 and exists (select from unnest(p.polroles) o where o <> 0 and pg_has_role(r.oid, o, 'usage'))
                 where p.polpermissive
                 group by p.on_table, r.rolname, v.spelled having count(*) > 1",
        remedy: "Make one of them, with a `case`: two, or an `or`, lose the order of the index",
    },
    Rule {
        name: "definer-path",
        query: "select name, 'is security definer and looks names up where its caller says' from functions
                 where prosecdef and not coalesce(proconfig @> array['search_path=\"\"'], false)",
        remedy: "`set search_path = ''`",
    },
    Rule {
        name: "definer-public",
        query: "select name, 'is security definer and anybody may execute it' from functions f
                 where prosecdef and prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
                   and exists (select from aclexplode(coalesce(proacl, acldefault('f', proowner))) a where a.grantee = 0)",
        remedy: "`revoke execute … from public`, and grant it to the roles that need it",
    },
    Rule {
        name: "foreign-key-index",
        query: "select t.name, format('has foreign key %s and no index led by its columns', k.conname)
                  from pg_constraint k join ours t on t.oid = k.conrelid
                 where k.contype = 'f' and k.conparentid = 0
                   and not exists (
                       select from pg_index i join pg_class x on x.oid = i.indexrelid join pg_am m on m.oid = x.relam
                        where i.indrelid = k.conrelid and m.amname = 'btree' and i.indisvalid
                          and i.indnkeyatts >= cardinality(k.conkey)
                          and (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
                          -- A partial index finds the rows only where every one of them is in it. Organisations are deleted too
                          -- rarely for an index of their own where one of some rows leads with them.
                          and (i.indpred is null
                               or pg_get_expr(i.indpred, i.indrelid) in (
                                   select format('(%I IS NOT NULL)', a.attname) from pg_attribute a
                                    where a.attrelid = k.conrelid and a.attnum = any (k.conkey))
                               or (k.confrelid = 'public.organizations'::regclass and cardinality(k.conkey) = 1)))",
        remedy: "Create one: without it, a change of what it refers to reads the whole table",
    },
    Rule {
        name: "organisation",
        query: "select name, 'has an org_id that no index leads with' from tables t
                 where exists (select from pg_attribute a where a.attrelid = t.oid and a.attname = 'org_id' and not a.attisdropped)
                   and not exists (select from pg_index i join pg_attribute a on a.attrelid = t.oid and a.attname = 'org_id'
                                    where i.indrelid = t.oid and i.indkey[0] = a.attnum)",
        remedy: "Create one: policies compare it in every statement",
    },
    Rule {
        name: "key-order",
        query: "select t.name, format('has the unique key %s, whose columns people name and org_id does not lead', x.relname)
                  from tables t
                  join pg_attribute o on o.attrelid = t.oid and o.attname = 'org_id' and not o.attisdropped
                  join pg_index i on i.indrelid = t.oid and i.indisunique
                  join pg_class x on x.oid = i.indexrelid
                 where i.indkey[0] <> o.attnum
                   and exists (select from pg_attribute a, unnest(array['anon', 'authenticated']) r, unnest(array['insert', 'update']) v
                                where a.attrelid = t.oid and a.attnum = any (i.indkey) and has_column_privilege(r, t.oid, a.attnum, v))",
        remedy: "Put org_id first, or grant no insert of its columns: that a key is taken tells of another organisation's row",
    },
];

/// What a policy calls for each row; told by the text of its expressions, so by no query.
const PER_ROW: &str = "call-per-row";

/// The rules, by name.
pub const RULES: [&str; QUERIES.len() + 1] = {
    let mut names = [PER_ROW; QUERIES.len() + 1];
    let mut at = 0;
    while at < QUERIES.len() {
        names[at] = QUERIES[at].name;
        at += 1;
    }
    names
};

/// Checks schemas `public` and `app`, and our policies on `storage.objects` and `realtime.messages`.
///
/// # Errors
/// If the catalogue cannot be read.
pub async fn schema(conn: &mut PgConnection) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut tx = conn.begin().await?;
    // So that whoever asks, every name is spelled with its schema.
    sqlx::query("set local search_path = ''").execute(&mut *tx).await?;
    for rule in QUERIES {
        let query = format!("{NAMES} {} order by 1, 2", rule.query);
        let rows: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(query))
            .fetch_all(&mut *tx)
            .await
            .with_context(|| format!("rule {} cannot be checked", rule.name))?;
        findings.extend(rows.into_iter().map(|(at, wrong)| Finding {
            rule: rule.name,
            at,
            wrong,
            remedy: rule.remedy.to_owned(),
        }));
    }
    findings.extend(calls_per_row(&mut tx).await?);
    tx.rollback().await?;
    Ok(findings)
}

async fn calls_per_row(conn: &mut PgConnection) -> Result<Vec<Finding>> {
    let query = format!(
        "{NAMES} select on_table, relname::text, polname::text, polcmd in ('r', '*'), array_remove(
                    array[pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)], null),
                array(select a.attname::text from pg_attribute a where a.attrelid = polrelid and a.attnum > 0)
           from policies order by on_table, polname"
    );
    type Row = (String, String, String, bool, Vec<String>, Vec<String>);
    let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(query)).fetch_all(conn).await?;
    let mut findings = Vec::new();
    for (at, table, policy, selects, expressions, columns) in rows {
        for call in expressions.iter().flat_map(|expression| expression::calls(expression, &table, &columns)) {
            let remedy = match (call.of_row, call.alone) {
                (false, true) => continue,
                // A few rows are written at a time, and each may have to be judged by what is in it.
                (true, _) if !selects => continue,
                (true, _) => {
                    "Compare the column with what a call without it returns, or ask with `exists` on the tables"
                }
                (false, false) => "Ask once per statement: `(select app.f())`, with nothing else in the sub-select",
            };
            let finding = Finding {
                rule: PER_ROW,
                at: at.clone(),
                wrong: format!("has policy {policy}, which calls {} for each row", call.function),
                remedy: remedy.to_owned(),
            };
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    Ok(findings)
}
