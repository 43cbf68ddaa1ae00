//! Rows for every table, in sets: one for each actor, one for a colleague, and the same once more in the other organisation.

use std::collections::HashMap;

use integration_tests::{
    TestDatabase,
    people::{ADAM, BRICK, CLEO, DAN, DORA, NORD, OLGA, OSCAR, RENATA, RUFUS, SVEN, UMA},
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

const DECLARATION: &str = include_str!("who_may.txt");
const ROWS: &str = include_str!("rows.txt");

/// People of these tests besides the seeded ones.
const MAX: Uuid = person(0x107);
const KIM: Uuid = person(0x801);
const NILS: Uuid = person(0x802);
const NINA: Uuid = person(0x803);
const KARL: Uuid = person(0x804);
const KURT: Uuid = person(0x805);
const UDO: Uuid = person(0x806);
/// May change members and projects, and neither more nor approve.
const SOME: Uuid = person(0x807);
/// A session of Dora's that was revoked.
const ENDED: Uuid = person(0x901);

const fn person(number: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number)
}

/// Who acts: a column of the declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Actor {
    Anonymous,
    Owner,
    Admin,
    AdminInFunction,
    Designer,
    DesignerInFunction,
    Sales,
    Consultant,
    Stranger,
    Manager,
    ClientUser,
    Agent,
    System,
    /// Of the other organisation, with a token that names this one.
    Outsider,
}

impl Actor {
    pub(crate) const ALL: [Self; 14] = [
        Self::Anonymous,
        Self::Owner,
        Self::Admin,
        Self::AdminInFunction,
        Self::Designer,
        Self::DesignerInFunction,
        Self::Sales,
        Self::Consultant,
        Self::Stranger,
        Self::Manager,
        Self::ClientUser,
        Self::Agent,
        Self::System,
        Self::Outsider,
    ];

    /// The database role that runs its statements.
    pub(crate) fn role(self) -> &'static str {
        match self {
            Self::Anonymous => "anon",
            Self::DesignerInFunction | Self::AdminInFunction => "spine_caller",
            Self::Agent => "spine_agent",
            Self::System => "spine_service",
            _ => "authenticated",
        }
    }

    /// Whether policies to this role apply to it.
    pub(crate) fn is_in(self, role: &str) -> bool {
        role == self.role() || (self.role() == "spine_caller" && role == "authenticated")
    }

    fn person(self) -> Option<Uuid> {
        Some(match self {
            Self::Owner => OLGA.id,
            Self::Admin | Self::AdminInFunction => ADAM.id,
            Self::Designer | Self::DesignerInFunction => DORA.id,
            Self::Sales => SVEN.id,
            Self::Consultant => CLEO.id,
            Self::Stranger => KIM,
            Self::Manager => MAX,
            Self::ClientUser => UMA.id,
            Self::Outsider => DAN.id,
            Self::Anonymous | Self::Agent | Self::System => return None,
        })
    }

    /// What makes a transaction this actor's, in Atelier Nord.
    pub(crate) fn settings(self) -> String {
        let claims = match self {
            Self::Anonymous => json!({ "role": "anon" }),
            Self::Agent => json!({ "agent_token_sha256": hex::encode(TOKEN_HASH) }),
            Self::System => json!({}),
            _ => json!({ "sub": self.person(), "org_id": NORD, "role": "authenticated" }),
        };
        let org = if self == Self::System { NORD.to_string() } else { String::new() };
        settings(self.role(), &claims, &org)
    }

    /// The actor whose set of rows is its own.
    fn set(self) -> Option<Self> {
        match self {
            Self::DesignerInFunction => Some(Self::Designer),
            Self::AdminInFunction => Some(Self::Admin),
            Self::Anonymous | Self::System | Self::Outsider => None,
            other => Some(other),
        }
    }
}

fn settings(role: &str, claims: &Value, service_org: &str) -> String {
    format!(
        "select set_config('request.jwt.claims', '{claims}', true), set_config('app.service_org', '{service_org}', true), \
         set_config('role', '{role}', true)"
    )
}

const TOKEN_HASH: [u8; 32] = [7; 32];

/// What nobody succeeds with, beyond what the declaration can say.
#[derive(Debug)]
pub(crate) struct Attack {
    pub(crate) what: &'static str,
    pub(crate) table: &'static str,
    pub(crate) role: &'static str,
    pub(crate) settings: String,
    pub(crate) statement: String,
}

/// Each is about a policy that asks for more than whose the row is.
pub(crate) fn attacks() -> Vec<Attack> {
    let attack = |what, table, role, settings, statement: &str| Attack {
        what,
        table,
        role,
        settings,
        statement: statement.to_owned(),
    };
    let some = json!({ "sub": SOME, "org_id": NORD, "role": "authenticated" });
    let some = || settings("authenticated", &some, "");
    let ended = json!({ "sub": DORA.id, "org_id": NORD, "role": "authenticated", "session_id": ENDED });
    let ended = || settings("authenticated", &ended, "");
    let nobody = |role| settings(role, &json!({}), "");
    vec![
        attack(
            "un-revokes a token",
            "agent_tokens",
            "authenticated",
            Actor::Owner.settings(),
            "update public.agent_tokens set revoked_at = null",
        ),
        attack(
            "gives a role that allows more than their own",
            "org_members",
            "authenticated",
            some(),
            "update public.org_members set role_id = '00000000-0000-7000-8000-000000000001'",
        ),
        attack(
            "approves without the permission",
            "projects",
            "authenticated",
            some(),
            &format!("update public.projects set approved_by = '{SOME}'"),
        ),
        attack(
            "reads prices without a token that stands",
            "model_prices",
            "spine_agent",
            nobody("spine_agent"),
            "select from public.model_prices",
        ),
        attack(
            "reads prices in no organisation",
            "model_prices",
            "spine_service",
            nobody("spine_service"),
            "select from public.model_prices",
        ),
        attack(
            "reads models without a token that stands",
            "models",
            "spine_agent",
            nobody("spine_agent"),
            "select from public.models",
        ),
        attack(
            "reads models in no organisation",
            "models",
            "spine_service",
            nobody("spine_service"),
            "select from public.models",
        ),
        attack(
            "reads models' roles without a token that stands",
            "model_roles",
            "spine_agent",
            nobody("spine_agent"),
            "select from public.model_roles",
        ),
        attack(
            "reads models' roles in no organisation",
            "model_roles",
            "spine_service",
            nobody("spine_service"),
            "select from public.model_roles",
        ),
        attack(
            "reads plans in no organisation",
            "plan_prices",
            "spine_service",
            nobody("spine_service"),
            "select from public.plan_prices",
        ),
        attack(
            "reads what accounts can do without a token that stands",
            "social_capabilities",
            "spine_agent",
            nobody("spine_agent"),
            "select from public.social_capabilities",
        ),
        attack(
            "reads what accounts can do in no organisation",
            "social_capabilities",
            "spine_service",
            nobody("spine_service"),
            "select from public.social_capabilities",
        ),
        attack(
            "sees themselves in a session that was ended",
            "profiles",
            "authenticated",
            ended(),
            "select from public.profiles",
        ),
        attack(
            "changes themselves in a session that was ended",
            "profiles",
            "authenticated",
            ended(),
            "update public.profiles set full_name = 'x'",
        ),
        attack(
            "sees sessions in one that was ended",
            "user_sessions",
            "authenticated",
            ended(),
            "select from public.user_sessions",
        ),
        attack(
            "sees contexts in a session that was ended",
            "active_contexts",
            "authenticated",
            ended(),
            "select from public.active_contexts",
        ),
        attack(
            "forges the score of the rules",
            "lead_scoring",
            "spine_agent",
            Actor::Agent.settings(),
            "insert into public.lead_scoring (org_id, lead_id, score, rationale, factors, model)
             select org_id, id, 100, 'r', '{}', 'rules' from public.leads limit 1",
        ),
        attack(
            "sees themselves as an anonymous sign-in",
            "profiles",
            "authenticated",
            settings(
                "authenticated",
                &json!({ "sub": DORA.id, "org_id": NORD, "role": "authenticated", "is_anonymous": true }),
                "",
            ),
            "select from public.profiles",
        ),
        attack(
            "shows a picture without leave to approve",
            "project_images",
            "authenticated",
            some(),
            "insert into public.project_images (org_id, project_id, file_path)
             select org_id, id, org_id || '/x' from public.projects where approved_by is not null limit 1",
        ),
        attack(
            "tags what is shown without leave to approve",
            "project_tags",
            "authenticated",
            some(),
            "insert into public.project_tags (org_id, project_id, tag)
             select org_id, id, 'x' from public.projects where approved_by is not null limit 1",
        ),
        attack(
            "runs in another agent's name",
            "agent_runs",
            "spine_agent",
            Actor::Agent.settings(),
            &format!("insert into public.agent_runs (org_id, status) values ('{NORD}', 'queued')"),
        ),
    ]
}

/// Whose rows, beside an actor's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Whose {
    Own,
    Colleague,
    /// The actor's own, in the other organisation, to which they belong as well.
    OwnElsewhere,
    Elsewhere,
}

impl Whose {
    pub(crate) const ALL: [Self; 4] = [Self::Own, Self::Colleague, Self::OwnElsewhere, Self::Elsewhere];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Set {
    org: Uuid,
    /// None for a colleague's.
    of: Option<Actor>,
}

/// A line of the declaration.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// As declared, with its kind.
    pub(crate) name: String,
    pub(crate) table: String,
    /// In the order of [`Actor::ALL`].
    cells: Vec<[char; 4]>,
}

/// What is done to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Select,
    Insert,
    Update,
    Delete,
}

impl Verb {
    pub(crate) const ALL: [Self; 4] = [Self::Select, Self::Insert, Self::Update, Self::Delete];
}

impl Line {
    /// What the declaration says.
    pub(crate) fn allows(&self, actor: Actor, verb: Verb, whose: Whose) -> bool {
        let cell = self.cells[actor as usize][verb as usize];
        match whose {
            Whose::Own => cell != '-',
            Whose::Colleague => cell.is_ascii_uppercase(),
            // What is public is so for whoever comes without an organisation.
            Whose::OwnElsewhere | Whose::Elsewhere => actor == Actor::Anonymous && cell.is_ascii_uppercase(),
        }
    }
}

/// The declaration, read.
pub(crate) fn declaration() -> Vec<Line> {
    let lines = DECLARATION.lines().filter(|line| !line.trim().is_empty() && !line.starts_with(['#', ' ']));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap().to_owned();
            let cells: Vec<[char; 4]> = words
                .map(|cell| {
                    let letters: [char; 4] = cell.chars().collect::<Vec<_>>().try_into().unwrap();
                    for (letter, verb) in letters.iter().zip("siud".chars()) {
                        assert!(*letter == '-' || letter.to_ascii_lowercase() == verb, "{line}");
                    }
                    letters
                })
                .collect();
            assert_eq!(cells.len(), Actor::ALL.len(), "{line}");
            Line { table: name.split('@').next().unwrap().to_owned(), name, cells }
        })
        .collect()
}

/// How rows of a line are made.
#[derive(Debug, Clone)]
struct Template {
    name: String,
    table: String,
    columns: Vec<(String, String)>,
    /// The row belongs to a person and to no organisation.
    personal: bool,
    /// An organisation has one: adding another reaches its unique key, which lies behind the policies.
    single: bool,
}

fn templates() -> Vec<Template> {
    let lines = ROWS.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (head, columns) = line.split_once(" | ").unwrap_or_else(|| panic!("{line}"));
            let mut names = head.trim().trim_start_matches(['+', '~', '=']).split_whitespace();
            let name = names.next().unwrap().to_owned();
            let table = names.next().unwrap_or_else(|| name.split('@').next().unwrap()).to_owned();
            let columns = columns.split(';').map(|column| {
                let (name, value) = column.trim().split_once(' ').unwrap_or_else(|| panic!("{line}"));
                (name.to_owned(), value.to_owned())
            });
            Template {
                name,
                table,
                columns: columns.collect(),
                personal: head.starts_with('~'),
                single: head.starts_with('='),
            }
        })
        .collect()
}

/// A table as the catalogue knows it.
#[derive(Debug, Default, Clone)]
struct Table {
    key: Vec<String>,
    columns: Vec<String>,
    /// Columns that a role may insert and update.
    grants: HashMap<(String, &'static str), Vec<String>>,
    /// A statement's `set` that touches every row without reading one, for each role that may update.
    touch: HashMap<String, String>,
}

/// What there is to act upon.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) lines: Vec<Line>,
    templates: Vec<Template>,
    tables: HashMap<String, Table>,
    ids: HashMap<(Set, String), Uuid>,
    /// What finds a row that is there.
    keys: HashMap<(Set, String), String>,
}

impl World {
    /// Fills the database, and finds what can be set in every row.
    pub(crate) async fn make(db: &TestDatabase) -> Self {
        let mut world = Self::fill_tables(db, sets()).await;
        let mut admin = db.admin().await;
        // No trigger meddles here either.
        admin.execute("set session_replication_role = replica").await.unwrap();
        world.find_touches(&mut admin).await;
        world
    }

    /// Puts a row into every table, or several: those of Atelier Nord's owner.
    pub(crate) async fn sample(db: &TestDatabase) {
        Self::fill_tables(db, vec![Set { org: NORD, of: Some(Actor::Owner) }]).await;
    }

    async fn fill_tables(db: &TestDatabase, sets: Vec<Set>) -> Self {
        let mut admin = db.admin().await;
        people(&mut admin).await;
        let mut world = Self {
            lines: declaration(),
            templates: templates(),
            tables: tables(&mut admin).await,
            ids: HashMap::new(),
            keys: HashMap::new(),
        };
        world.name_rows();
        // What a person may see, as they are told it themselves.
        admin
            .execute(
                "create function public.seen_by(person uuid, org uuid) returns text language plpgsql as $$
                 declare
                     claims text := current_setting('request.jwt.claims', true);
                     seen   text;
                 begin
                     perform set_config('request.jwt.claims', jsonb_build_object('sub', person, 'org_id', org)::text, true);
                     seen := app.seen_as();
                     perform set_config('request.jwt.claims', claims, true);
                     return seen;
                 end $$;
                 grant execute on function public.seen_by(uuid, uuid) to public",
            )
            .await
            .unwrap();
        // No trigger meddles: a submission stays as it is made although a review of it is made as well.
        admin.execute("set session_replication_role = replica").await.unwrap();
        for set in sets {
            for template in world.templates.clone() {
                world.add(&mut admin, set, &template).await;
            }
        }
        // Clients came after some of them.
        admin
            .execute("update ai_insights set seen_as = seen_by(user_id, org_id) where user_id is not null")
            .await
            .unwrap();
        admin.close().await.unwrap();
        world
    }

    fn name_rows(&mut self) {
        for set in sets() {
            for template in &self.templates {
                self.ids.insert((set, template.name.clone()), Uuid::new_v4());
            }
            let agent = match (set.of, set.org) {
                (Some(Actor::Agent), NORD) => RENATA.id,
                (Some(Actor::Agent), _) => RUFUS.id,
                _ => continue,
            };
            self.ids.insert((set, "agents".to_owned()), agent);
        }
    }

    async fn add(&mut self, admin: &mut PgConnection, set: Set, template: &Template) {
        let table = &self.tables[&template.table];
        let columns = self.columns(set, template, None);
        let finds = |name: &str| if template.single { name != "id" } else { table.key.iter().any(|key| key == name) };
        let mut key = Vec::new();
        for (name, value) in columns.iter().filter(|(name, _)| finds(name)) {
            // A literal stays; what is computed may come out otherwise for somebody who sees less.
            let value = if value.starts_with('\'') && value.matches('\'').count() == 2 {
                value.clone()
            } else {
                let ask = format!("select quote_literal(({value})::text)");
                sqlx::query_scalar(AssertSqlSafe(ask)).fetch_one(&mut *admin).await.unwrap()
            };
            key.push(format!("t.{name} = {value}"));
        }
        assert!(
            template.single || key.len() == table.key.len(),
            "{}: rows.txt names all of {:?}",
            template.name,
            table.key
        );
        let key = key.join(" and ");
        let find = format!("select from public.{} t where {key}", template.table);
        if admin.execute(AssertSqlSafe(find)).await.unwrap().rows_affected() == 0 {
            let statement = insert(&template.table, &columns);
            let made = admin.execute(AssertSqlSafe(statement.clone())).await;
            made.unwrap_or_else(|error| panic!("{}: {error}\n{statement}", template.name));
        }
        self.keys.insert((set, template.name.clone()), key);
    }

    /// Columns of a row of this set; of one that is to be added, if there is a new id for it.
    fn columns(&self, set: Set, template: &Template, new: Option<Uuid>) -> Vec<(String, String)> {
        let id = new.unwrap_or_else(|| self.ids[&(set, template.name.clone())]);
        let fill = |value: &str| self.fill(value, set, id, new.is_some());
        template.columns.iter().map(|(name, value)| (name.clone(), fill(value))).collect()
    }

    fn fill(&self, value: &str, set: Set, id: Uuid, new: bool) -> String {
        let mut filled = String::new();
        let mut rest = value;
        while let Some(start) = rest.find('<') {
            let end = start + rest[start..].find('>').unwrap();
            let (there, added) =
                rest[start + 1..end].split_once('|').unwrap_or((&rest[start + 1..end], &rest[start + 1..end]));
            filled.push_str(&rest[..start]);
            filled.push_str(&self.value(if new { added } else { there }, set, id));
            rest = &rest[end + 1..];
        }
        filled + rest
    }

    fn value(&self, name: &str, set: Set, id: Uuid) -> String {
        let is = |actors: &[Actor]| set.of.is_some_and(|of| actors.contains(&of));
        let person = set.of.and_then(Actor::person);
        let colleague = if set.org == NORD { NILS } else { OSCAR.id };
        let agent = is(&[Actor::Agent]);
        let id = match name {
            "id" => id,
            "org" => set.org,
            "person" => person.unwrap_or(colleague),
            "staff" if is(&[Actor::Owner, Actor::Admin, Actor::Designer, Actor::Sales]) => person.unwrap_or(colleague),
            "staff" => colleague,
            "spare_staff" => NINA,
            "consultant" if is(&[Actor::Consultant]) => CLEO.id,
            "org_consultant" if is(&[Actor::Consultant, Actor::Stranger, Actor::Manager]) => person.unwrap_or(KARL),
            "consultant" | "org_consultant" => KARL,
            "spare_consultant" => KURT,
            "client_user" if is(&[Actor::ClientUser]) => UMA.id,
            "client_user" => UDO,
            "agent" => self.ids[&(set, "agents".to_owned())],
            "user?" if agent => return "null".to_owned(),
            "user?" => person.unwrap_or(colleague),
            "agent?" if agent => self.ids[&(set, "agents".to_owned())],
            "agent?" => return "null".to_owned(),
            "user_or_agent" if agent => self.ids[&(set, "agents".to_owned())],
            "user_or_agent" => person.unwrap_or(colleague),
            // Letters alone, which suits every column that must be unique.
            "n" => {
                let letters = id
                    .simple()
                    .to_string()
                    .chars()
                    .map(|digit| if digit.is_ascii_digit() { (digit as u8 + 58) as char } else { digit })
                    .collect::<String>();
                return format!("'{letters}'");
            }
            "number" => return (id.as_u128() % 1_000_000_000).to_string(),
            literal if literal.starts_with('\'') || literal.parse::<i64>().is_ok() => return literal.to_owned(),
            table => self.ids.get(&(set, table.to_owned())).copied().unwrap_or_else(|| panic!("rows.txt: <{table}>")),
        };
        format!("'{id}'::uuid")
    }

    /// For every role, what it may set in a table that would touch every row: found by trying it as superuser.
    async fn find_touches(&mut self, admin: &mut PgConnection) {
        for (name, table) in &mut self.tables {
            for ((role, verb), columns) in &table.grants {
                if *verb != "UPDATE" {
                    continue;
                }
                let literal = self
                    .templates
                    .iter()
                    .filter(|template| template.table == *name)
                    .flat_map(|template| &template.columns);
                let mut candidates: Vec<String> = literal
                    .filter(|(column, value)| columns.contains(column) && !value.contains('<'))
                    .map(|(column, value)| format!("{column} = {value}"))
                    .collect();
                candidates.extend(columns.iter().flat_map(|column| {
                    ["now()", "null", "default", "'x'", "1", "true", "'{}'", "md5(random()::text)"]
                        .map(|value| format!("{column} = {value}"))
                }));
                for candidate in candidates {
                    admin.execute("begin").await.unwrap();
                    let done = admin.execute(AssertSqlSafe(format!("update public.{name} set {candidate}"))).await;
                    admin.execute("rollback").await.unwrap();
                    if done.is_ok() {
                        table.touch.insert(role.clone(), candidate);
                        break;
                    }
                }
                assert!(table.touch.contains_key(role), "nothing in {name} can be set for every row by {role}");
            }
        }
    }

    /// What finds the row; nothing if there is none of this kind beside the actor's own.
    pub(crate) fn key(&self, line: &Line, actor: Actor, whose: Whose) -> Option<&str> {
        let template = self.template(line);
        let key = |set: Set| self.keys.get(&(set, line.name.clone())).map(String::as_str);
        let colleague = key(Set { org: NORD, of: None });
        match whose {
            // No row is more one's own than another here.
            Whose::Own => key(Set { org: NORD, of: Some(actor.set()?) }).filter(|own| Some(*own) != colleague),
            Whose::Colleague => colleague,
            Whose::OwnElsewhere if template.personal => None,
            Whose::OwnElsewhere => {
                key(Set { org: BRICK, of: Some(actor.set()?) }).filter(|row| Some(*row) != colleague)
            }
            Whose::Elsewhere => key(Set { org: BRICK, of: None }).filter(|row| Some(*row) != colleague),
        }
    }

    fn template(&self, line: &Line) -> &Template {
        self.templates
            .iter()
            .find(|template| template.name == line.name)
            .unwrap_or_else(|| panic!("rows.txt has no {}", line.name))
    }

    /// Tries to add a row of this kind, with the columns that the role may name.
    pub(crate) fn insert(&self, line: &Line, actor: Actor, whose: Whose) -> Option<String> {
        let template = self.template(line);
        let set = match whose {
            Whose::Own => Set { org: NORD, of: Some(actor.set()?) },
            Whose::Colleague => Set { org: NORD, of: None },
            Whose::OwnElsewhere => Set { org: BRICK, of: Some(actor.set()?) },
            Whose::Elsewhere => Set { org: BRICK, of: None },
        };
        let table = &self.tables[&line.table];
        let mut columns = self.columns(set, template, Some(Uuid::new_v4()));
        if columns.iter().all(|(name, _)| table.key.contains(name)) && columns.len() == 1 {
            return Some(format!("insert into public.{} default values", line.table));
        }
        // A row of a certain kind is that by all of its columns; its id it may be given.
        if let Some(granted) = table.grants.get(&(actor.role().to_owned(), "INSERT")) {
            columns.retain(|(name, _)| (line.name != line.table && name != "id") || granted.contains(name));
        }
        Some(insert(&line.table, &columns))
    }

    /// A row of a colleague's in this organisation that is not there yet.
    pub(crate) fn new_row(&self, line: &Line, org: Uuid) -> Vec<(String, String)> {
        self.columns(Set { org, of: None }, self.template(line), Some(Uuid::new_v4()))
    }

    /// What finds the colleague's row here.
    pub(crate) fn key_here(&self, line: &Line) -> Option<&str> {
        self.keys.get(&(Set { org: NORD, of: None }, line.name.clone())).map(String::as_str)
    }

    /// What finds the colleague's row in the other organisation.
    pub(crate) fn key_elsewhere(&self, line: &Line) -> Option<&str> {
        self.keys.get(&(Set { org: BRICK, of: None }, line.name.clone())).map(String::as_str)
    }

    /// A role of the other organisation's own, as a literal.
    pub(crate) fn role_elsewhere(&self) -> String {
        format!("'{}'", self.ids[&(Set { org: BRICK, of: None }, "roles".to_owned())])
    }

    /// The columns that the actor may name in an insert or update.
    pub(crate) fn granted(&self, line: &Line, actor: Actor, verb: &'static str) -> &[String] {
        self.tables[&line.table].grants.get(&(actor.role().to_owned(), verb)).map_or(&[], Vec::as_slice)
    }

    /// Whether adding a second one is stopped by a unique key of the organisation.
    pub(crate) fn is_single(&self, line: &Line) -> bool {
        self.template(line).single
    }

    /// A `set` that changes nothing of one row, in all the columns that the role may update.
    pub(crate) fn rewrite(&self, line: &Line, actor: Actor) -> String {
        let table = &self.tables[&line.table];
        match table.grants.get(&(actor.role().to_owned(), "UPDATE")) {
            // Once, and for good: a policy of its own.
            Some(_) if line.table == "agent_tokens" => "revoked_at = now()".to_owned(),
            Some(columns) => {
                columns.iter().map(|column| format!("{column} = t.{column}")).collect::<Vec<_>>().join(", ")
            }
            None => format!("{0} = {0}", table.columns[0]),
        }
    }

    /// A `set` that reads nothing.
    pub(crate) fn touch(&self, line: &Line, actor: Actor) -> String {
        let table = &self.tables[&line.table];
        table.touch.get(actor.role()).cloned().unwrap_or_else(|| format!("{} = default", table.columns[0]))
    }

    /// Whether the role may move rows between organisations as far as its grants go.
    pub(crate) fn may_move(&self, line: &Line, actor: Actor) -> bool {
        let granted = self.tables[&line.table].grants.get(&(actor.role().to_owned(), "UPDATE"));
        granted.is_some_and(|columns| columns.iter().any(|column| column == "org_id"))
    }

    /// The columns that a role may update.
    pub(crate) fn updatable(&self, table: &str, role: &str) -> &[String] {
        self.tables[table].grants.get(&(role.to_owned(), "UPDATE")).map_or(&[], Vec::as_slice)
    }
}

pub(crate) fn insert(table: &str, columns: &[(String, String)]) -> String {
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let values: Vec<&str> = columns.iter().map(|(_, value)| value.as_str()).collect();
    format!("insert into public.{table} ({}) values ({})", names.join(", "), values.join(", "))
}

fn sets() -> Vec<Set> {
    let mut sets = Vec::new();
    for org in [NORD, BRICK] {
        sets.push(Set { org, of: None });
        let actors = Actor::ALL.into_iter().filter(|actor| actor.set() == Some(*actor));
        sets.extend(actors.map(|actor| Set { org, of: Some(actor) }));
    }
    sets
}

/// Everybody belongs to both organisations, in the same role, so that nothing but the active one keeps them apart.
async fn people(admin: &mut PgConnection) {
    let role = |number: u8| format!("00000000-0000-7000-8000-00000000000{number}");
    let mut statements = vec!["select app.ensure_social_month('2026-01-15')".to_owned()];
    for (number, id) in [KIM, NILS, NINA, KARL, KURT, UDO, SOME].iter().enumerate() {
        statements.push(format!("insert into auth.users (id, email) values ('{id}', 'p{number}@isolation.example')"));
    }
    statements
        .push(format!("insert into user_sessions (id, user_id, revoked_at) values ('{ENDED}', '{}', now())", DORA.id));
    for org in [NORD, BRICK] {
        for (id, number) in [(OLGA.id, 1), (ADAM.id, 2), (DORA.id, 3), (SVEN.id, 4), (NILS, 4), (NINA, 4)] {
            statements.push(format!(
                "insert into org_members (org_id, user_id, role_id) values ('{org}', '{id}', '{}') on conflict do nothing",
                role(number)
            ));
        }
        for (id, kind) in
            [(CLEO.id, "consultant"), (KIM, "consultant"), (MAX, "manager"), (KARL, "consultant"), (KURT, "consultant")]
        {
            statements.push(format!(
                "insert into org_consultants (org_id, user_id, role) values ('{org}', '{id}', '{kind}') on conflict do nothing"
            ));
        }
    }
    // Nils is known in this organisation alone.
    statements.push(format!("delete from org_members where org_id = '{BRICK}' and user_id = '{NILS}'"));
    statements.push(format!(
        "with made as (insert into roles (org_id, name) values ('{NORD}', 'some') returning id),
              allowed as (insert into permissions (org_id, role_id, resource, action)
                          select '{NORD}', made.id, p.resource, p.action
                            from made, (values ('members', 'update'), ('members', 'read'), ('projects', 'read'), ('projects', 'update'))
                                       p (resource, action))
         insert into org_members (org_id, user_id, role_id) select '{NORD}', '{SOME}', id from made"
    ));
    statements.push(format!(
        "insert into agent_tokens (org_id, agent_id, token_hash) values ('{NORD}', '{}', '\\x{}')",
        RENATA.id,
        hex::encode(TOKEN_HASH)
    ));
    for statement in statements {
        admin.execute(AssertSqlSafe(statement.clone())).await.unwrap_or_else(|error| panic!("{error}\n{statement}"));
    }
}

async fn tables(admin: &mut PgConnection) -> HashMap<String, Table> {
    let columns: Vec<(String, String, bool)> = sqlx::query_as(
        "select c.relname::text, a.attname::text, coalesce(a.attnum = any (k.conkey), false)
           from pg_class c
           join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
           left join pg_constraint k on k.conrelid = c.oid and k.contype = 'p'
          where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and c.relname <> '_sqlx_migrations'
          order by c.relname, a.attnum",
    )
    .fetch_all(&mut *admin)
    .await
    .unwrap();
    let mut tables: HashMap<String, Table> = HashMap::new();
    for (table, column, key) in columns {
        let table = tables.entry(table).or_default();
        if key {
            table.key.push(column.clone());
        }
        table.columns.push(column);
    }
    let grants: Vec<(String, String, String, String)> = sqlx::query_as(
        "select c.relname::text, a.attname::text, r.rolname::text, v.verb
           from pg_class c
           join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
           cross join (values ('INSERT'), ('UPDATE')) v (verb)
           join pg_roles r on r.rolname in ('anon', 'authenticated', 'spine_caller', 'spine_agent', 'spine_service')
          where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
            and has_column_privilege(r.rolname, c.oid, a.attnum, v.verb)
          order by c.relname, a.attnum",
    )
    .fetch_all(admin)
    .await
    .unwrap();
    for (table, column, role, verb) in grants {
        let verb = if verb == "INSERT" { "INSERT" } else { "UPDATE" };
        if let Some(table) = tables.get_mut(&table) {
            table.grants.entry((role, verb)).or_default().push(column);
        }
    }
    tables
}
