//! Who acts: the people and agents of the seeded organisations, and of two more.

use anyhow::{Context, Result};
use integration_tests::people::{self, BRICK, HARBOUR, LAKESIDE, NORD};
use sandbox::auth::User;
use uuid::Uuid;

use crate::ground::Ground;

/// In the name, address and notes of every lead: must leave the house nowhere.
pub(crate) const LEAD_MARK: &str = "Soakperson";
/// In the wishes of every render: told to the model and sealed everywhere else.
pub(crate) const WISH_MARK: &str = "for Wishwoman Greta";
/// A dearer plan than the seeded one.
pub(crate) const BIG_PRICE: &str = "price_soak_big";

/// A person, working in one organisation.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) id: Uuid,
    pub(crate) email: String,
    pub(crate) org: Uuid,
}

impl From<people::Person> for Person {
    fn from(person: people::Person) -> Self {
        Self { id: person.id, email: person.email.to_owned(), org: person.org }
    }
}

/// An organisation and who acts in it.
#[derive(Debug, Clone)]
pub(crate) struct Organisation {
    pub(crate) id: Uuid,
    pub(crate) slug: String,
    pub(crate) project: Uuid,
    pub(crate) owner: Person,
    pub(crate) designer: Person,
    pub(crate) sales: Person,
    /// Its agent and the agent's token.
    pub(crate) agent: Option<(Uuid, String)>,
    /// Whether its leads are assigned by the schedule.
    pub(crate) by_schedule: bool,
}

/// The organisations, with everything they need to be busy.
pub(crate) async fn gather(ground: &Ground) -> Result<Vec<Organisation>> {
    let sara = people::Person {
        id: Uuid::from_u128(people::OSCAR.id.as_u128() + 3),
        email: "sara@brick-and-beam.example",
        ..people::OSCAR
    };
    let mut all = vec![
        Organisation {
            id: NORD,
            slug: "atelier-nord".to_owned(),
            project: LAKESIDE,
            owner: people::OLGA.into(),
            designer: people::DORA.into(),
            sales: people::SVEN.into(),
            agent: Some((people::RENATA.id, token(ground, &people::RENATA).await?)),
            by_schedule: true,
        },
        Organisation {
            id: BRICK,
            slug: "brick-and-beam".to_owned(),
            project: HARBOUR,
            owner: people::OSCAR.into(),
            designer: people::DAN.into(),
            sales: sara.into(),
            agent: Some((people::RUFUS.id, token(ground, &people::RUFUS).await?)),
            by_schedule: false,
        },
    ];
    for (number, by_schedule) in [(3, true), (4, false)] {
        all.push(found(ground, number, by_schedule).await?);
    }
    for org in &all {
        prepare(ground, org).await?;
    }
    ground.stack.sandbox.stripe.create_price(BIG_PRICE, 90_000);
    ground
        .run(&format!(
            "insert into public.plan_prices (stripe_price_id, plan, rank) values ('{BIG_PRICE}', 'enterprise', 2)"
        ))
        .await?;
    Ok(all)
}

/// Makes an organisation as the seed makes its own.
async fn found(ground: &Ground, number: u128, by_schedule: bool) -> Result<Organisation> {
    let id = |part: u128| Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + part);
    let (org, project, slug) = (id(number), id(0xa0 + (number << 4)), format!("soak-{number}"));
    let person =
        |role: u128, name: &str| Person { id: id((number << 8) + role), email: format!("{name}@{slug}.example"), org };
    let (owner, designer, sales) = (person(1, "owner"), person(3, "designer"), person(4, "sales"));
    let mut statements =
        format!("insert into public.organizations (id, name, slug) values ('{org}', 'Soak {number}', '{slug}');");
    for (person, role) in [(&owner, 1), (&designer, 3), (&sales, 4)] {
        statements += &format!(
            "insert into auth.users (id, email) values ('{0}', '{1}');
             insert into public.org_members (org_id, user_id, role_id)
             values ('{org}', '{0}', '00000000-0000-7000-8000-00000000000{role}');",
            person.id, person.email
        );
    }
    statements += &format!(
        "insert into public.projects (id, org_id, title, category, status) values ('{project}', '{org}', 'Soaked hall', 'residential', 'active');"
    );
    ground.run(&statements).await.context("an organisation cannot be made")?;
    Ok(Organisation { id: org, slug, project, owner, designer, sales, agent: None, by_schedule })
}

/// Leads of earlier weeks, people who take new ones, and a model that may move their scores.
async fn prepare(ground: &Ground, org: &Organisation) -> Result<()> {
    let statements = format!(
        "insert into public.lead_capacity (org_id, user_id, max_open) values ('{0}', '{1}', 500), ('{0}', '{2}', 500);
         insert into public.lead_assignment_settings (org_id, enabled, min_auc, max_brier, ai_bound)
         values ('{0}', {3}, null, null, 10);
         insert into public.insight_settings (org_id, tables) values ('{0}', '{{leads}}');
         {4}",
        org.id,
        org.owner.id,
        org.sales.id,
        org.by_schedule,
        earlier_leads(org.id, 30),
    );
    ground.run(&statements).await.context("an organisation cannot be prepared")?;
    Ok(())
}

/// So many leads of the last months, all of which have ended: what insights speak of.
pub(crate) fn earlier_leads(org: Uuid, many: u32) -> String {
    format!(
        "insert into public.leads (org_id, client_name, email, source, status, created_at, closed_at)
         select '{org}', '{LEAD_MARK} ' || n, '{LEAD_MARK}-' || n || '@example.org', (array['website', 'referral'])[1 + n % 2],
                (array['won', 'lost'])[1 + n % 2], now() - interval '31 hours' * n, now() - interval '1 hour'
           from generate_series(1, {many}) n;"
    )
}

/// Issues a token to an agent, as an operator would.
async fn token(ground: &Ground, agent: &people::Agent) -> Result<String> {
    let secret: String = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()).chars().take(43).collect();
    let token = format!("spine_agent_{secret}");
    ground
        .run(&format!(
            "insert into public.agent_tokens (org_id, agent_id, token_hash) values ('{}', '{}', sha256(convert_to('{token}', 'UTF8')))",
            agent.org, agent.id
        ))
        .await?;
    Ok(token)
}

/// An access token of a person.
pub(crate) fn sign_in(ground: &Ground, person: &Person) -> Result<String> {
    let user = User { id: person.id, email: person.email.clone() };
    ground.stack.sandbox.auth.sign_in(&user, Some(person.org))
}
