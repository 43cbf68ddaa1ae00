//! The page that describes the schema: `docs/schema.md`, written from the catalogue and so never out of date.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use anyhow::{Result, bail};
use sqlx::{Connection, PgConnection};

/// Where the page is kept.
pub const PAGE: &str = "docs/schema.md";

/// In which part of the page a table is described, in order. A table that is in none is an error: a reader must find it.
const DOMAINS: [(&str, &[&str]); 15] = [
    (
        "Core and access",
        &[
            "organizations",
            "profiles",
            "roles",
            "permissions",
            "org_members",
            "org_consultants",
            "clients",
            "client_consultants",
            "client_users",
            "user_sessions",
            "active_contexts",
            "invitations",
            "agents",
            "agent_tokens",
            "personas",
            "assets",
            "deploys",
            "data_ownership",
        ],
    ),
    (
        "Content",
        &[
            "proposals",
            "contracts",
            "templates",
            "services",
            "blog_posts",
            "blog_categories",
            "blog_tags",
            "blog_media",
        ],
    ),
    ("Portfolio", &["projects", "project_images", "project_tags"]),
    (
        "Client workflows",
        &[
            "template_questions",
            "client_templates",
            "submissions",
            "submission_answers",
            "submission_reviews",
            "template_question_accounting",
        ],
    ),
    ("AI rendering", &["render_requests", "render_parameters", "render_results", "render_counters"]),
    (
        "Leads",
        &[
            "leads",
            "lead_notes",
            "lead_scoring",
            "lead_capacity",
            "lead_assignments",
            "lead_assignment_settings",
            "social_lead_rules",
            "social_leads",
        ],
    ),
    (
        "Social",
        &[
            "social_accounts",
            "social_messages",
            "social_message_keys",
            "social_analytics",
            "social_sentiment",
            "social_cursors",
            "social_threads",
            "social_media",
            "social_capabilities",
            "social_pace",
            "social_replies",
            "social_attachments",
            "social_ai_settings",
        ],
    ),
    (
        "Intelligence",
        &["client_intelligence", "org_brain", "agent_runs", "prospect_intelligence", "ai_insights", "insight_settings"],
    ),
    (
        "Agents' limits and AI cost",
        &[
            "agent_limits",
            "agent_usage",
            "limit_windows",
            "usage_reservations",
            "provider_calls",
            "models",
            "model_roles",
            "model_prices",
            "ai_cache",
            "prompt_templates",
        ],
    ),
    ("System", &["jobs", "system_settings", "idempotency_keys", "outbox", "webhook_events", "error_logs"]),
    ("Notifications", &["notifications", "notification_preferences"]),
    ("Audit", &["audit_log", "audit_seals", "subject_keys"]),
    (
        "Billing",
        &[
            "invoices",
            "stripe_objects",
            "billing_checkouts",
            "meter_reports",
            "billing_reconciliations",
            "subscriptions",
            "plan_prices",
            "billing_events",
        ],
    ),
    (
        "Integrations",
        &[
            "org_integrations",
            "oauth_states",
            "fortnox_customers",
            "fortnox_pace",
            "fortnox_call_slots",
            "fortnox_sync_state",
            "fortnox_years",
            "fortnox_voucher_series",
            "fortnox_accounts",
            "fortnox_cost_centers",
            "client_accounting",
            "accounting_writes",
        ],
    ),
    (
        "Approvals",
        &[
            "approvals",
            "approval_settings",
            "accounting_executions",
            "accounting_reconciliations",
            "unproposed_vouchers",
            "accounting_payment_reads",
        ],
    ),
];

/// How much of a default is shown.
const DEFAULT_LENGTH: usize = 40;

/// Describes the schema of a migrated database.
///
/// # Errors
/// If the catalogue cannot be read, or a table belongs to no domain.
pub async fn page(conn: &mut PgConnection) -> Result<String> {
    let schema = Schema::read(conn).await?;
    let mapped: BTreeSet<&str> = DOMAINS.iter().flat_map(|(_, tables)| tables.iter().copied()).collect();
    let lost: Vec<&str> = schema.tables.keys().map(String::as_str).filter(|name| !mapped.contains(name)).collect();
    if !lost.is_empty() {
        bail!("no domain for {}: add a line to DOMAINS in infra/developer/src/schema.rs", lost.join(", "));
    }
    let domains: Vec<(String, Vec<&str>)> = DOMAINS
        .iter()
        .map(|(domain, tables)| {
            (*domain, tables.iter().copied().filter(|name| schema.tables.contains_key(*name)).collect())
        })
        .filter(|(_, tables): &(&str, Vec<&str>)| !tables.is_empty())
        .enumerate()
        // Numbered, so that the heading of `Leads` is no anchor that the table `leads` has to share.
        .map(|(at, (domain, tables))| (format!("{}. {domain}", at + 1), tables))
        .collect();
    let mut page = Page::default();
    page.index(&domains, &schema);
    for (heading, tables) in &domains {
        page.line(&format!("\n## {heading}\n"));
        page.diagram(tables, &schema);
        for name in tables {
            page.table(name, &schema);
        }
    }
    page.views(&schema);
    page.functions(&schema);
    Ok(page.text)
}

#[derive(Debug, Default)]
struct Table {
    comment: String,
    columns: Vec<Column>,
    constraints: Vec<Constraint>,
    /// Name, whether unique, what it is on.
    indexes: Vec<(String, bool, String)>,
    policies: Vec<Policy>,
    grants: Vec<Grant>,
    /// The column, or none for the whole table, and who writes it.
    owners: Vec<(Option<String>, String)>,
}

#[derive(Debug, sqlx::FromRow)]
struct Column {
    on_table: String,
    name: String,
    kind: String,
    required: bool,
    default: Option<String>,
    comment: Option<String>,
}

#[derive(Debug, sqlx::FromRow)]
struct Constraint {
    on_table: String,
    name: String,
    kind: String,
    definition: String,
    columns: Vec<String>,
    /// For a foreign key.
    refers_to: Option<String>,
    required: bool,
    single: bool,
}

#[derive(Debug, sqlx::FromRow)]
struct Policy {
    on_table: String,
    name: String,
    verb: String,
    permissive: bool,
    roles: String,
    using: Option<String>,
    check: Option<String>,
}

#[derive(Debug, sqlx::FromRow)]
struct Grant {
    on_table: String,
    role: String,
    verb: String,
    columns: Option<Vec<String>>,
}

#[derive(Debug, sqlx::FromRow)]
struct Function {
    signature: String,
    returns: String,
    comment: String,
    definer: bool,
    roles: String,
}

#[derive(Debug, Default)]
struct Schema {
    tables: BTreeMap<String, Table>,
    /// Name, comment, who may read it.
    views: Vec<(String, String, String)>,
    functions: Vec<Function>,
}

impl Schema {
    async fn read(conn: &mut PgConnection) -> Result<Self> {
        let mut tx = conn.begin().await?;
        // What the catalogue spells depends on these.
        for setting in ["search_path = public", "timezone = 'UTC'", "datestyle = 'ISO'", "intervalstyle = 'postgres'"] {
            sqlx::query(sqlx::AssertSqlSafe(format!("set local {setting}"))).execute(&mut *tx).await?;
        }
        let mut schema = Self::default();
        let tables: Vec<(String, String)> = sqlx::query_as(
            "select relname::text, coalesce(obj_description(oid, 'pg_class'), '') from pg_class
              where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition
                and relname <> '_sqlx_migrations'",
        )
        .fetch_all(&mut *tx)
        .await?;
        for (name, comment) in tables {
            schema.tables.insert(name, Table { comment, ..Table::default() });
        }
        schema.read_columns(&mut tx).await?;
        schema.read_constraints(&mut tx).await?;
        schema.read_access(&mut tx).await?;
        schema.read_functions(&mut tx).await?;
        tx.rollback().await?;
        Ok(schema)
    }

    async fn read_columns(&mut self, conn: &mut PgConnection) -> Result<()> {
        let columns: Vec<Column> = sqlx::query_as(
            "select c.relname::text as on_table, a.attname::text as name, format_type(a.atttypid, a.atttypmod) as kind,
                    a.attnotnull as required,
                    case when a.attidentity <> '' then 'identity'
                         when a.attgenerated <> '' then 'generated: ' || pg_get_expr(d.adbin, d.adrelid, true)
                         else pg_get_expr(d.adbin, d.adrelid, true) end as default,
                    col_description(c.oid, a.attnum) as comment
               from pg_attribute a
               join pg_class c on c.oid = a.attrelid
               left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
              where c.relnamespace = 'public'::regnamespace and a.attnum > 0 and not a.attisdropped
              order by a.attnum",
        )
        .fetch_all(conn)
        .await?;
        for column in columns {
            if let Some(table) = self.tables.get_mut(&column.on_table) {
                table.columns.push(column);
            }
        }
        Ok(())
    }

    async fn read_constraints(&mut self, conn: &mut PgConnection) -> Result<()> {
        let constraints: Vec<Constraint> = sqlx::query_as(
            "select c.relname::text as on_table, k.conname::text as name, k.contype::text as kind,
                    pg_get_constraintdef(k.oid, true) as definition,
                    array(select a.attname::text from unnest(k.conkey) with ordinality u (attnum, place)
                            join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.attnum order by u.place) as columns,
                    nullif(k.confrelid, 0)::regclass::text as refers_to,
                    not exists (select from pg_attribute a
                                 where a.attrelid = k.conrelid and a.attnum = any (k.conkey) and not a.attnotnull) as required,
                    exists (select from pg_index i
                             where i.indrelid = k.conrelid and i.indisunique and i.indpred is null
                               and (i.indkey::int2[])[0:i.indnkeyatts - 1] <@ k.conkey) as single
               from pg_constraint k join pg_class c on c.oid = k.conrelid
              where k.connamespace = 'public'::regnamespace and k.contype in ('p', 'u', 'c', 'f', 'x') and k.conparentid = 0
              order by array_position(array['p', 'u', 'x', 'c', 'f'], k.contype::text), k.conname collate \"C\"",
        )
        .fetch_all(&mut *conn)
        .await?;
        for constraint in constraints {
            if let Some(table) = self.tables.get_mut(&constraint.on_table) {
                table.constraints.push(constraint);
            }
        }
        let indexes: Vec<(String, String, bool, String)> = sqlx::query_as(
            "select c.relname::text, x.relname::text, i.indisunique, pg_get_indexdef(i.indexrelid)
               from pg_index i join pg_class c on c.oid = i.indrelid join pg_class x on x.oid = i.indexrelid
              where c.relnamespace = 'public'::regnamespace
                and not exists (select from pg_constraint k where k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x'))
              order by x.relname collate \"C\"",
        )
        .fetch_all(conn)
        .await?;
        for (table, name, unique, definition) in indexes {
            let on = definition.split_once(" USING ").map_or(definition.as_str(), |(_, on)| on);
            let on = on.strip_prefix("btree ").unwrap_or(on).to_owned();
            if let Some(table) = self.tables.get_mut(&table) {
                table.indexes.push((name, unique, on));
            }
        }
        Ok(())
    }

    async fn read_access(&mut self, conn: &mut PgConnection) -> Result<()> {
        let policies: Vec<Policy> = sqlx::query_as(
            "select c.relname::text as on_table, p.polname::text as name,
                    case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete'
                                  else 'all' end as verb,
                    p.polpermissive as permissive,
                    (select string_agg(case r.oid when 0 then 'everybody' else pg_get_userbyid(r.oid) end, ', '
                                       order by pg_get_userbyid(r.oid) collate \"C\") from unnest(p.polroles) r (oid)) as roles,
                    pg_get_expr(p.polqual, p.polrelid, true) as using, pg_get_expr(p.polwithcheck, p.polrelid, true) as check
               from pg_policy p join pg_class c on c.oid = p.polrelid
              where c.relnamespace = 'public'::regnamespace
              order by array_position(array['r', 'a', 'w', 'd', '*'], p.polcmd::text), p.polname collate \"C\"",
        )
        .fetch_all(&mut *conn)
        .await?;
        for policy in policies {
            if let Some(table) = self.tables.get_mut(&policy.on_table) {
                table.policies.push(policy);
            }
        }
        // What the newest server adds to the list of rights is no part of what we granted.
        let grants: Vec<Grant> = sqlx::query_as(
            "select * from (
                 select c.relname::text as on_table, coalesce(r.rolname, 'everybody')::text as role, lower(a.privilege_type) as verb,
                        null::text[] as columns
                   from pg_class c cross join aclexplode(c.relacl) a left join pg_roles r on r.oid = a.grantee
                  where c.relnamespace = 'public'::regnamespace and a.grantee <> c.relowner
                 union all
                 select c.relname, coalesce(r.rolname, 'everybody'), lower(x.privilege_type), array_agg(a.attname::text order by a.attnum)
                   from pg_attribute a join pg_class c on c.oid = a.attrelid cross join aclexplode(a.attacl) x
                   left join pg_roles r on r.oid = x.grantee
                  where c.relnamespace = 'public'::regnamespace and x.grantee <> c.relowner
                  group by c.relname, r.rolname, x.privilege_type) g
              where verb in ('select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger')
              order by role collate \"C\",
                       array_position(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger'], verb),
                       columns nulls first",
        )
        .fetch_all(&mut *conn)
        .await?;
        for grant in grants {
            if let Some(table) = self.tables.get_mut(&grant.on_table) {
                table.grants.push(grant);
            }
        }
        let owners: Vec<(String, Option<String>, String)> = sqlx::query_as(
            "select table_name, column_name, owner from public.data_ownership order by column_name collate \"C\" nulls first",
        )
        .fetch_all(conn)
        .await?;
        for (table, column, owner) in owners {
            if let Some(table) = self.tables.get_mut(&table) {
                table.owners.push((column, owner));
            }
        }
        Ok(())
    }

    async fn read_functions(&mut self, conn: &mut PgConnection) -> Result<()> {
        self.views = sqlx::query_as(
            "select c.relname::text, coalesce(obj_description(c.oid, 'pg_class'), ''),
                    coalesce((select string_agg(distinct pg_get_userbyid(a.grantee)::text, ', ') from aclexplode(c.relacl) a
                               where a.privilege_type = 'SELECT' and a.grantee not in (0, c.relowner)), '')
               from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('v', 'm')
              order by c.relname collate \"C\"",
        )
        .fetch_all(&mut *conn)
        .await?;
        // What a trigger runs is nobody's to call.
        self.functions = sqlx::query_as(
            "select format('%s.%s(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) as signature,
                    coalesce(pg_get_function_result(p.oid), '') as returns,
                    coalesce(obj_description(p.oid, 'pg_proc'), '') as comment,
                    p.prosecdef as definer,
                    coalesce(e.roles, '') as roles
               from pg_proc p join pg_namespace n on n.oid = p.pronamespace
               cross join lateral (
                   select string_agg(distinct case a.grantee when 0 then 'everybody' else pg_get_userbyid(a.grantee)::text end, ', ') as roles
                     from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee <> p.proowner) e
              where n.nspname in ('public', 'app') and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
                and (n.nspname = 'public' or e.roles is not null)
                and not exists (select from pg_depend d
                                 where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
              order by n.nspname collate \"C\" desc, p.proname collate \"C\",
                       pg_get_function_identity_arguments(p.oid) collate \"C\"",
        )
        .fetch_all(conn)
        .await?;
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, line: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn index(&mut self, domains: &[(String, Vec<&str>)], schema: &Schema) {
        self.line("# Schema\n");
        self.line("Written by `./spine schema` from what the migrations make; `./spine test` fails where it is out of date.\n");
        for (heading, tables) in domains {
            let links: Vec<String> = tables.iter().map(|name| format!("[{name}](#{name})")).collect();
            self.line(&format!("- [{heading}](#{}): {}", anchor(heading), links.join(", ")));
        }
        if !schema.views.is_empty() {
            self.line("- [Views](#views)");
        }
        self.line("- [Functions](#functions)");
        self.line(
            "\nEvery table has row-level security, forced: whom a policy does not name sees nothing of it. A grant with columns is for \
             those alone. People are `anon` and `authenticated` through the Data API and `spine_caller` inside a function, which has \
             the policies and grants of `authenticated` too.",
        );
    }

    /// The tables with their keys, and what they refer to; a table of another domain is a bare box.
    fn diagram(&mut self, tables: &[&str], schema: &Schema) {
        self.line("```mermaid\nerDiagram");
        for (name, table) in tables.iter().filter_map(|name| Some((name, schema.tables.get(*name)?))) {
            self.line(&format!("    {name} {{"));
            for column in &table.columns {
                let part_of = |kind: &str| {
                    table
                        .constraints
                        .iter()
                        .any(|constraint| constraint.kind == kind && constraint.columns.contains(&column.name))
                };
                let keys = match (part_of("p"), part_of("f")) {
                    (true, true) => "PK, FK",
                    (true, false) => "PK",
                    (false, true) => "FK",
                    (false, false) => continue,
                };
                self.line(&format!(
                    "        {} {} {keys}",
                    short_type(&column.kind).replace([' ', '.'], "_"),
                    column.name
                ));
            }
            self.line("    }");
        }
        for (name, table) in tables.iter().filter_map(|name| Some((name, schema.tables.get(*name)?))) {
            for constraint in &table.constraints {
                let Some(parent) = &constraint.refers_to else { continue };
                let one = if constraint.required { "||" } else { "|o" };
                let many = if constraint.single { "o|" } else { "o{" };
                // What every table has says nothing where there is more.
                let mut columns: Vec<&str> = constraint.columns.iter().map(String::as_str).collect();
                if columns.len() > 1 {
                    columns.retain(|column| *column != "org_id");
                }
                let parent = if parent.contains('.') { format!("\"{parent}\"") } else { parent.clone() };
                self.line(&format!("    {parent} {one}--{many} {name} : \"{}\"", columns.join(", ")));
            }
        }
        self.line("```");
    }

    fn table(&mut self, name: &str, schema: &Schema) {
        let Some(table) = schema.tables.get(name) else { return };
        self.line(&format!("\n### {name}\n"));
        self.line(format!("{} {}", plain(&table.comment), owners(&table.owners)).trim());
        self.columns(&table.columns);
        self.keys(table, schema);
        self.policies(&table.policies);
        self.grants(&table.grants);
    }

    fn columns(&mut self, columns: &[Column]) {
        // Most tables speak for themselves, and an empty column is only in the way.
        let commented = columns.iter().any(|column| column.comment.is_some());
        self.line(&format!("\n| column | type | null | default |{}", if commented { " meaning |" } else { "" }));
        self.line(&format!("|---|---|---|---|{}", if commented { "---|" } else { "" }));
        for column in columns {
            let null = if column.required { "" } else { "null" };
            let default = column.default.as_deref().map(|default| code(&short(&tidy(default)))).unwrap_or_default();
            let comment = column.comment.as_deref().map(plain).unwrap_or_default();
            let comment = if commented { format!(" {comment} |") } else { String::new() };
            let kind = short_type(&column.kind);
            self.line(&format!("| {} | {kind} | {null} | {default} |{comment}", code(&column.name)));
        }
    }

    fn keys(&mut self, table: &Table, schema: &Schema) {
        if table.constraints.is_empty() && table.indexes.is_empty() {
            return;
        }
        self.line("\n| key, check or index | | |\n|---|---|---|");
        for constraint in &table.constraints {
            let definition = tidy(&constraint.definition);
            let (kind, is) = match constraint.kind.as_str() {
                "p" => ("primary key", code(definition.trim_start_matches("primary key "))),
                "u" => ("unique", code(definition.trim_start_matches("unique "))),
                "c" => ("check", code(bare(definition.trim_start_matches("check ")))),
                "f" => ("foreign key", reference(constraint, &definition, schema)),
                _ => ("exclude", code(&definition)),
            };
            self.line(&format!("| {} | {kind} | {is} |", code(&constraint.name)));
        }
        for (name, unique, on) in &table.indexes {
            let kind = if *unique { "unique index" } else { "index" };
            self.line(&format!("| {} | {kind} | {} |", code(name), code(&tidy(on))));
        }
    }

    fn policies(&mut self, policies: &[Policy]) {
        if policies.is_empty() {
            return;
        }
        self.line("\n| policy | for | to | rows |\n|---|---|---|---|");
        for policy in policies {
            let verb = if policy.permissive { policy.verb.clone() } else { format!("{} (restrictive)", policy.verb) };
            let using = policy.using.as_deref().map(|using| code(&tidy(using)));
            let check = policy.check.as_deref().map(|check| code(&tidy(check)));
            let rows = match (using, check) {
                (Some(using), Some(check)) if using == check => format!("{using}, before and after"),
                (Some(using), Some(check)) => format!("{using}, and after it {check}"),
                (Some(rows), None) | (None, Some(rows)) => rows,
                (None, None) => String::new(),
            };
            self.line(&format!("| {} | {verb} | {} | {rows} |", code(&policy.name), policy.roles));
        }
    }

    fn grants(&mut self, grants: &[Grant]) {
        if grants.is_empty() {
            return;
        }
        let mut by_role: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for grant in grants {
            let columns =
                grant.columns.as_ref().map(|columns| format!(" ({})", columns.join(", "))).unwrap_or_default();
            by_role.entry(&grant.role).or_default().push(format!("{}{columns}", grant.verb));
        }
        self.line("\nGranted:\n");
        for (role, verbs) in by_role {
            self.line(&format!("- {role}: {}", verbs.join(", ")));
        }
    }

    fn views(&mut self, schema: &Schema) {
        if schema.views.is_empty() {
            return;
        }
        self.line("\n## Views\n\n| view | | may read |\n|---|---|---|");
        for (name, comment, roles) in &schema.views {
            self.line(&format!("| {} | {} | {roles} |", code(name), plain(comment)));
        }
    }

    fn functions(&mut self, schema: &Schema) {
        self.line("\n## Functions\n");
        self.line("Those in `public`, and those in `app` that some role may execute. A definer's has the rights of its owner.\n");
        self.line("| function | | definer's | may execute |\n|---|---|---|---|");
        for function in &schema.functions {
            let signature = short_type(&format!("{} → {}", function.signature, function.returns));
            let definer = if function.definer { "yes" } else { "" };
            let roles = if function.roles.is_empty() { "nobody" } else { &function.roles };
            self.line(&format!("| {} | {} | {definer} | {roles} |", code(&signature), plain(&function.comment)));
        }
    }
}

/// Where a foreign key leads, as a link if the page describes it.
fn reference(constraint: &Constraint, definition: &str, schema: &Schema) -> String {
    let (_, to) = definition.split_once(" references ").unwrap_or_default();
    let (table, rest) = to.split_once('(').unwrap_or((to, ""));
    let (columns, then) = rest.split_once(')').unwrap_or((rest, ""));
    let table = if schema.tables.contains_key(table) { format!("[{table}](#{table})") } else { code(table) };
    format!(
        "{} → {table} {}{then}",
        code(&format!("({})", constraint.columns.join(", "))),
        code(&format!("({columns})"))
    )
}

/// Who writes a table, in words.
fn owners(owners: &[(Option<String>, String)]) -> String {
    let word = |owner: &str| match owner {
        "human" => "people",
        "agent" => "agents",
        _ => "the system",
    };
    let mut told = String::new();
    let mut columns: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (column, owner) in owners {
        match column {
            None => told = format!("Written by {}", word(owner)),
            Some(column) => columns.entry(word(owner)).or_default().push(code(column)),
        }
    }
    for (owner, columns) in columns {
        let _ = write!(told, "; {} by {owner}", columns.join(", "));
    }
    if told.is_empty() { told } else { format!("*{told}.*") }
}

/// What the headings of a page are linked by.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn short_type(kind: &str) -> String {
    kind.replace("timestamp with time zone", "timestamptz")
        .replace("timestamp without time zone", "timestamp")
        .replace("character varying", "varchar")
        .replace("double precision", "float8")
        .replace("extensions.", "")
}

fn short(text: &str) -> String {
    if text.chars().count() <= DEFAULT_LENGTH {
        return text.to_owned();
    }
    text.chars().take(DEFAULT_LENGTH - 1).chain(['…']).collect()
}

/// Text of a cell.
fn plain(text: &str) -> String {
    text.split('\n').map(str::trim).collect::<Vec<_>>().join(" ").replace('|', "\\|").replace('<', "&lt;")
}

/// Code of a cell; a bar ends the cell even here.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

/// Without the parentheses around all of it.
fn bare(text: &str) -> &str {
    let Some(inner) = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) else { return text };
    let mut depth = 0_i32;
    for c in inner.chars() {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        if depth < 0 {
            return text;
        }
    }
    inner
}

/// An expression on one line, in lower case but for what is quoted, without what the server adds to what was written.
fn tidy(expression: &str) -> String {
    let mut text = String::new();
    let mut quote = None;
    for c in expression.chars() {
        match quote {
            Some(open) => {
                if c == open {
                    quote = None;
                }
                text.push(c);
            }
            None if c.is_whitespace() => {
                if !text.ends_with([' ', '(']) {
                    text.push(' ');
                }
            }
            None => {
                if matches!(c, '\'' | '"') {
                    quote = Some(c);
                }
                text.extend(c.to_lowercase());
            }
        }
    }
    let mut text = without_names(&text.replace("'::text", "'"));
    // A sub-select has parentheses of its own.
    while let Some((begin, end)) = doubled(&text) {
        text.remove(end);
        text.remove(begin);
    }
    text.trim().to_owned()
}

/// Without ` as name` at the end of a sub-select, which nobody wrote.
fn without_names(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(" as ") {
        kept.push_str(before);
        let end = after.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '"' | '?'))).unwrap_or(after.len());
        if before.ends_with(')') && after[end..].starts_with(')') {
            rest = &after[end..];
        } else {
            kept.push_str(" as ");
            rest = after;
        }
    }
    kept.push_str(rest);
    kept
}

/// Two pairs of parentheses around a sub-select: where the outer one is.
fn doubled(text: &str) -> Option<(usize, usize)> {
    for (begin, _) in text.match_indices("((select ") {
        let mut depth = 0;
        for (at, c) in text[begin..].char_indices() {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            if depth == 1 && c == ')' {
                // The inner one closes here; the outer one must do so at once.
                let end = begin + at + 1;
                if text[end..].starts_with(')') {
                    return Some((begin, end));
                }
                break;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_in_one_domain() {
        let mut seen = BTreeSet::new();
        for name in DOMAINS.iter().flat_map(|(_, tables)| tables.iter()) {
            assert!(seen.insert(name), "{name} is in two domains");
        }
    }

    #[test]
    fn an_expression_reads_as_it_was_written() {
        for (spelled, written) in [
            ("org_id = (( SELECT app.active_org_id() AS active_org_id))", "org_id = (select app.active_org_id())"),
            ("(( SELECT app.may('A:b'::text) AS may)) AND\n  x", "(select app.may('A:b')) and x"),
            (
                "EXISTS ( SELECT FROM projects p\n  WHERE p.id = x.id)",
                "exists (select from projects p where p.id = x.id)",
            ),
            ("'{}'::jsonb", "'{}'::jsonb"),
            ("CHECK (a  = 'x  Y')", "check (a = 'x  Y')"),
        ] {
            assert_eq!(tidy(spelled), written);
        }
    }

    #[test]
    fn parentheses_go_only_if_they_are_a_pair() {
        assert_eq!(bare("(a = 1)"), "a = 1");
        assert_eq!(bare("(a = 1) or (b = 2)"), "(a = 1) or (b = 2)");
        assert_eq!(bare("((a = 1) or (b = 2))"), "(a = 1) or (b = 2)");
    }

    #[test]
    fn a_heading_is_linked_as_pages_do() {
        assert_eq!(anchor("9. Agents' limits and AI cost"), "9-agents-limits-and-ai-cost");
    }
}
