//! Search among vectors: one's own organisation's alone, exact, and with an index for a large tenant nearly so.

use integration_tests::{
    Server, TestDatabase,
    people::{ADAM, BRICK, DAN, NORD, OSCAR, SVEN},
};
use operator::vectors::{self, Outcome};
use sqlx::PgConnection;
use uuid::Uuid;

const DIMENSIONS: usize = 1536;

/// Numbers that look drawn and are the same every time.
struct Drawn(u64);

impl Drawn {
    /// Between -1 and 1.
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f32::from(u16::try_from(self.0 >> 48).unwrap()) / 32_768.0 - 1.0
    }

    fn vector(&mut self, scale: f32) -> Vec<f32> {
        (0..DIMENSIONS).map(|_| self.next() * scale).collect()
    }
}

/// Pieces of a few subjects each: vectors without any order have no neighbours worth finding.
struct Brain {
    subjects: Vec<Vec<f32>>,
    drawn: Drawn,
}

impl Brain {
    fn new() -> Self {
        let mut drawn = Drawn(42);
        Self { subjects: (0..40).map(|_| drawn.vector(1.0)).collect(), drawn }
    }

    fn piece(&mut self, number: usize) -> Vec<f32> {
        let noise = self.drawn.vector(0.8);
        self.subjects[number % self.subjects.len()].iter().zip(noise).map(|(subject, noise)| subject + noise).collect()
    }

    async fn fill(&mut self, conn: &mut PgConnection, org: Uuid, pieces: usize) -> Vec<(Uuid, Vec<f32>)> {
        let made: Vec<(Uuid, Vec<f32>)> = (0..pieces).map(|number| (Uuid::now_v7(), self.piece(number))).collect();
        // Nobody needs to be told of each.
        sqlx::query("set session_replication_role = replica").execute(&mut *conn).await.unwrap();
        for chunk in made.chunks(200) {
            let ids: Vec<Uuid> = chunk.iter().map(|(id, _)| *id).collect();
            let vectors: Vec<String> = chunk.iter().map(|(_, vector)| text(vector)).collect();
            sqlx::query(
                "insert into public.org_brain (id, org_id, content_type, content_text, embedding)
                 select id, $1, 'note', 'A piece', embedding::extensions.vector from unnest($2::uuid[], $3::text[]) as t (id, embedding)",
            )
            .bind(org)
            .bind(ids)
            .bind(vectors)
            .execute(&mut *conn)
            .await
            .unwrap();
        }
        sqlx::query("reset session_replication_role").execute(&mut *conn).await.unwrap();
        made
    }
}

fn text(vector: &[f32]) -> String {
    format!("[{}]", vector.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
}

/// The ids nearest to `query`, by cosine, computed here.
fn nearest(pieces: &[(Uuid, Vec<f32>)], query: &[f32], most: usize) -> Vec<Uuid> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let mut far: Vec<(f64, Uuid)> = pieces
        .iter()
        .map(|(id, piece)| (1.0 - dot(piece, query) / (dot(piece, piece) * dot(query, query)).sqrt(), *id))
        .collect();
    far.sort_by(|a, b| a.0.total_cmp(&b.0));
    far.into_iter().take(most).map(|(_, id)| id).collect()
}

async fn search(conn: &mut PgConnection, query: &[f32], most: usize) -> Vec<Uuid> {
    sqlx::query_scalar("select id from public.search_org_brain($1::extensions.vector, $2)")
        .bind(text(query))
        .bind(i32::try_from(most).unwrap())
        .fetch_all(conn)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn vector_search_is_exact_and_finds_ones_own_organisation_alone() {
    for server in [Server::Postgres16, Server::Postgres18] {
        let db = TestDatabase::new(server).await;
        let mut brain = Brain::new();
        let nord = brain.fill(&mut db.admin().await, NORD, 150).await;
        let brick = brain.fill(&mut db.admin().await, BRICK, 150).await;
        let mut adam = db.data_api(&ADAM.claims()).await;
        for number in 0..10 {
            let query = brain.piece(number);
            assert_eq!(search(&mut adam, &query, 10).await, nearest(&nord, &query, 10));
        }
        // What is another's is not found even by its own vector.
        assert!(
            !search(&mut adam, &brick[0].1, 100).await.iter().any(|id| brick.iter().any(|(theirs, _)| theirs == id))
        );
        assert_eq!(search(&mut adam, &nord[0].1, 1000).await.len(), 100, "at most a hundred");
        for stranger in [SVEN, DAN] {
            let found = search(&mut db.data_api(&stranger.claims()).await, &nord[0].1, 100).await;
            assert!(found.is_empty(), "whoever may not read the brain finds nothing in it");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_tenants_index_finds_nearly_all_and_leaves_a_small_tenant_exact() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let mut brain = Brain::new();
    let nord = brain.fill(&mut db.admin().await, NORD, 4000).await;
    let brick = brain.fill(&mut db.admin().await, BRICK, 60).await;
    db.run("analyze public.org_brain").await;
    let mut told = Vec::new();
    let mut make = async |force| {
        vectors::make(&db.url, "atelier-nord", force, &mut |line| told.push(line.to_owned())).await.unwrap()
    };

    let refused = make(false).await;
    assert_eq!(
        refused.iter().map(|index| index.outcome.clone()).collect::<Vec<_>>(),
        [Outcome::TooFew(4000), Outcome::TooFew(0)]
    );
    let made = make(true).await;
    assert!(made.iter().all(|index| index.outcome == Outcome::Made), "{made:?}");
    let again = make(true).await;
    assert!(again.iter().all(|index| index.outcome == Outcome::Present), "{again:?}");
    let owned =
        "select count(*) from pg_class c where c.relname = any ('{NAMES}') and c.relowner = 'spine_owner'::regrole";
    let names = made.iter().map(|index| index.name.clone()).collect::<Vec<_>>().join(",");
    assert_eq!(db.count(&owned.replace("NAMES", &names)).await, 2);

    let scans = "select coalesce(sum(idx_scan), 0)::bigint from pg_stat_user_indexes where indexrelname ~ '_vectors_'";
    let mut adam = db.data_api(&ADAM.claims()).await;
    let (mut hits, mut all) = (0, 0);
    for number in 0..40 {
        let query = brain.piece(number);
        let found = search(&mut adam, &query, 10).await;
        let wanted = nearest(&nord, &query, 10);
        hits += wanted.iter().filter(|id| found.contains(id)).count();
        all += wanted.len();
    }
    assert!(hits * 100 >= all * 95, "recall is {hits} of {all}");
    assert_eq!(search(&mut adam, &nord[0].1, 100).await.len(), 100, "a hundred are found where a hundred are wanted");
    flush(&mut adam).await;
    let used = db.count(scans).await;
    assert!(used >= 40, "the index was used {used} times");

    let mut oscar = db.data_api(&OSCAR.claims()).await;
    for number in 0..10 {
        let query = brain.piece(number);
        assert_eq!(search(&mut oscar, &query, 100).await, nearest(&brick, &query, 100));
    }
    flush(&mut oscar).await;
    assert_eq!(db.count(scans).await, used, "it is no other tenant's");

    // What a failed attempt leaves behind.
    db.run(&format!("update pg_index set indisvalid = false where indexrelid = 'public.{}'::regclass", made[0].name))
        .await;
    assert_eq!(make(true).await[0].outcome, Outcome::Made);
    assert!(told.iter().any(|line| line.contains("unfinished")), "{told:?}");
    let dropped = vectors::drop(&db.url, "atelier-nord").await.unwrap();
    assert!(dropped.iter().all(|index| index.outcome == Outcome::Dropped), "{dropped:?}");
    assert!(vectors::make(&db.url, "nobody", true, &mut |_| ()).await.is_err());
}

/// Ends the transaction, and has its statistics told at once.
async fn flush(conn: &mut PgConnection) {
    sqlx::raw_sql("reset role; select pg_stat_force_next_flush(); commit").execute(conn).await.unwrap();
}
