//! MongoDB's one door: what an organisation does there neither shows, changes, counts nor removes what is another's. And that
//! there is no other door.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Barrier},
};

use futures::TryStreamExt;
use local::home;
use mongodb::{
    Client, IndexModel,
    bson::{Bson, Document, deserialize_from_document, doc},
};
use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, TestRunner},
};
use serde_json::{Map, Value, json};
use shared::{
    config::Env,
    documents::{Collection, DocumentError, Documents, LARGEST, OrgDocuments, PAGE},
    secrets::Secrets,
};
use tokio::runtime::Runtime;
use uuid::Uuid;

/// A database of one test alone: as functions reach it, and without a door.
struct Store {
    name: String,
    documents: Documents,
    raw: mongodb::Database,
}

impl Store {
    /// One that nobody has prepared.
    async fn bare() -> Self {
        let name = format!("t_{}", Uuid::new_v4().simple());
        let raw = Client::with_uri_str(integration_tests::mongodb_uri()).await.unwrap().database(&name);
        Self { documents: documents(&name), name, raw }
    }

    async fn new() -> Self {
        let store = Self::bare().await;
        store.documents.ensure_schema().await.unwrap();
        store
    }

    fn door(&self, org: Uuid) -> OrgDocuments<'_> {
        self.documents.for_org(org)
    }

    fn raw(&self, collection: Collection) -> mongodb::Collection<Document> {
        self.raw.collection(collection.name())
    }

    /// Everything in a collection, whoever's it is, by id.
    async fn all(&self, collection: Collection) -> BTreeMap<Uuid, Value> {
        let found: Vec<Document> = self.raw(collection).find(doc! {}).await.unwrap().try_collect().await.unwrap();
        found.into_iter().map(|document| (document.get_str("_id").unwrap().parse().unwrap(), json(document))).collect()
    }

    /// Collections with their options and indexes, as the server tells them.
    async fn schema(&self) -> BTreeMap<String, (Document, Vec<IndexModel>)> {
        let collections: Vec<Document> =
            self.raw.run_cursor_command(doc! { "listCollections": 1 }).await.unwrap().try_collect().await.unwrap();
        let mut schema = BTreeMap::new();
        for collection in collections {
            let name = collection.get_str("name").unwrap();
            let indexes = self.raw.collection::<Document>(name).list_indexes().await.unwrap();
            let indexes = indexes.try_collect().await.unwrap();
            schema.insert(name.to_owned(), (collection.get_document("options").unwrap().clone(), indexes));
        }
        schema
    }
}

fn documents(database: &str) -> Documents {
    let uri = integration_tests::mongodb_uri();
    let env = Env::from_iter([("MONGODB_URI", uri.as_str()), ("MONGODB_DATABASE", database)]);
    Documents::from_env(&env, Arc::new(Secrets::from_env(&env).unwrap())).unwrap()
}

fn json(document: Document) -> Value {
    deserialize_from_document(document).unwrap()
}

/// What is kept of `content`.
fn kept(org: Uuid, collection: Collection, id: Uuid, content: &Value) -> Value {
    let mut document = content.clone();
    document["_id"] = json!(id);
    document["org_id"] = json!(org);
    document["path"] = json!(format!("orgs/{org}/{}/{id}", collection.name()));
    document
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs `case` on so many generated values, and tells the smallest that fails.
fn generated<S: Strategy>(cases: u32, values: &S, case: impl Fn(S::Value)) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(values, |value| {
        case(value);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

const KINDS: [&str; 2] = ["render", "post"];

/// One call of the door.
#[derive(Debug, Clone, Copy)]
enum Call {
    Put { kind: usize, text: u8, forged: bool },
    PutMany { kind: usize, text: u8 },
    Find,
    List { kind: usize, most: u16 },
    Delete,
    Count,
    Read,
}

/// Who calls, where, and about which document. Organisations draw from the same ids.
#[derive(Debug, Clone, Copy)]
struct Step {
    org: usize,
    collection: Collection,
    id: usize,
    call: Call,
}

const IDS: usize = 4;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = 0..KINDS.len();
    let call = prop_oneof![
        4 => (kind.clone(), 0..2u8, any::<bool>()).prop_map(|(kind, text, forged)| Call::Put { kind, text, forged }),
        2 => (kind.clone(), 0..2u8).prop_map(|(kind, text)| Call::PutMany { kind, text }),
        2 => Just(Call::Find),
        2 => (kind, 1..3u16).prop_map(|(kind, most)| Call::List { kind, most }),
        1 => Just(Call::Delete),
        1 => Just(Call::Count),
        1 => Just(Call::Read),
    ];
    let step = (0..3usize, select(&Collection::ALL), 0..IDS, call).prop_map(|(org, collection, id, call)| Step {
        org,
        collection,
        id,
        call,
    });
    prop::collection::vec(step, 1..40)
}

/// What each organisation should have.
type Model = BTreeMap<(Uuid, &'static str), BTreeMap<Uuid, Value>>;

async fn take(store: &Store, model: &mut Model, orgs: &[Uuid], ids: &[Uuid], step: Step) {
    let (org, collection, id) = (orgs[step.org], step.collection, ids[step.id]);
    let door = store.door(org);
    let others: BTreeSet<Uuid> = orgs
        .iter()
        .filter(|other| **other != org)
        .flat_map(|other| model[&(*other, collection.name())].keys().copied())
        .collect();
    let taken = others.contains(&id);
    let own = model.get_mut(&(org, collection.name())).unwrap();
    match step.call {
        Call::Put { kind, text, forged } => {
            let mut content = json!({ "kind": KINDS[kind], "text": text });
            if forged {
                let other = orgs[(step.org + 1) % orgs.len()];
                content = kept(other, collection, Uuid::new_v4(), &content);
            }
            let outcome = door.put(collection, id, content.clone()).await;
            if taken {
                assert!(matches!(outcome, Err(DocumentError::IdTaken)), "{outcome:?}");
            } else {
                outcome.unwrap();
                own.insert(id, kept(org, collection, id, &content));
            }
        }
        Call::PutMany { kind, text } => {
            let content = json!({ "kind": KINDS[kind], "text": text });
            let mut documents: Vec<(Uuid, Value)> = ids.iter().map(|id| (*id, content.clone())).collect();
            // One that is none, in the middle.
            documents.insert(step.id, (Uuid::new_v4(), json!([content])));
            let outcomes = door.put_many(collection, &documents).await.unwrap();
            assert_eq!(outcomes.len(), documents.len());
            for ((id, content), outcome) in documents.into_iter().zip(outcomes) {
                match outcome {
                    Ok(()) => {
                        assert!(content.is_object() && !others.contains(&id));
                        own.insert(id, kept(org, collection, id, &content));
                    }
                    Err(DocumentError::Shape) => assert!(content.is_array()),
                    Err(DocumentError::IdTaken) => assert!(others.contains(&id)),
                    Err(error) => panic!("{error}"),
                }
            }
        }
        Call::Find => assert_eq!(door.find(collection, id).await.unwrap().as_ref(), own.get(&id)),
        Call::List { kind, most } => {
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let page = door.list(collection, KINDS[kind], after, most).await.unwrap();
                assert!(page.documents.len() <= usize::from(most));
                listed.extend(page.documents);
                assert!(listed.len() <= IDS, "the list does not end");
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            let wanted: Vec<&Value> = own.values().rev().filter(|document| document["kind"] == KINDS[kind]).collect();
            assert_eq!(listed.iter().collect::<Vec<_>>(), wanted);
        }
        Call::Delete => assert_eq!(door.delete(collection, id).await.unwrap(), own.remove(&id).is_some()),
        Call::Count => {
            let counted = door.aggregate(collection, &[json!({ "$count": "n" })]).await.unwrap();
            // Of nothing, MongoDB makes no document, and the embedded server one that says 0.
            assert_eq!(counted.first().map_or(&json!(0), |first| &first["n"]), &json!(own.len()));
        }
        Call::Read => {
            let read = door.aggregate(collection, &[json!({ "$sort": { "_id": 1 } })]).await.unwrap();
            assert_eq!(read.iter().collect::<Vec<_>>(), own.values().collect::<Vec<_>>());
        }
    }
}

#[test]
fn whatever_organisations_do_each_has_what_it_alone_did() {
    let runtime = runtime();
    let store = runtime.block_on(Store::new());
    generated(64, &steps(), |steps| {
        runtime.block_on(async {
            for collection in Collection::ALL {
                store.raw(collection).delete_many(doc! {}).await.unwrap();
            }
            let orgs = [0; 3].map(|_| Uuid::new_v4());
            let ids = [0; IDS].map(|_| Uuid::now_v7());
            let mut model = Model::new();
            for (org, collection) in orgs.iter().flat_map(|org| Collection::ALL.map(|collection| (*org, collection))) {
                model.insert((org, collection.name()), BTreeMap::new());
            }
            for step in steps {
                take(&store, &mut model, &orgs, &ids, step).await;
            }
            for collection in Collection::ALL {
                let of = |org: &Uuid| model[&(*org, collection.name())].clone();
                let wanted: BTreeMap<Uuid, Value> = orgs.iter().flat_map(of).collect();
                assert_eq!(store.all(collection).await, wanted);
            }
        });
    });
}

const MINE: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
const THEIRS: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0002);
/// Documents of [`THEIRS`] begin here, and of [`MINE`] at 0.
const FIRST_OF_THEIRS: u128 = 100;

fn numbered(number: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number)
}

/// Stages that leave the organisation, write, or run a script or a condition that can fail; and operators that do.
const LEAVING: &[&str] = &[
    "$lookup",
    "$graphLookup",
    "$unionWith",
    "$out",
    "$merge",
    "$facet",
    "$collStats",
    "$indexStats",
    "$planCacheStats",
    "$currentOp",
    "$listSessions",
    "$listLocalSessions",
    "$changeStream",
    "$documents",
    "$geoNear",
    "$search",
    "$searchMeta",
    "$vectorSearch",
    "$sample",
    "$redact",
    "$replaceRoot",
    "$where",
    "$expr",
    "$function",
    "$accumulator",
    "$jsonSchema",
    "$regex",
    "$text",
    "$comment",
    "$meta",
    "$getField",
    "$code",
];

/// Any JSON, much of it operators and what they look for.
fn hostile() -> impl Strategy<Value = Value> {
    let scalar = select(vec![
        json!(null),
        json!(0),
        json!(1),
        json!(true),
        json!(MINE),
        json!(THEIRS),
        json!(numbered(FIRST_OF_THEIRS)),
        json!("$org_id"),
        json!("$text"),
        json!("$$ROOT"),
        json!("$$CURRENT.org_id"),
        json!(format!("orgs/{THEIRS}/")),
    ]);
    let operators = [
        "$and",
        "$or",
        "$nor",
        "$not",
        "$eq",
        "$ne",
        "$gt",
        "$gte",
        "$lt",
        "$in",
        "$nin",
        "$exists",
        "$elemMatch",
        "$sum",
        "$push",
        "$first",
        "$cond",
        "$ifNull",
        "$concat",
        "$divide",
        "$size",
    ];
    let field = select(["org_id", "_id", "path", "kind", "text", "n", ""].to_vec()).prop_map(str::to_owned);
    let name = prop_oneof![
        6 => field,
        6 => select(operators.to_vec()).prop_map(str::to_owned),
        1 => select(LEAVING).prop_map(str::to_owned),
    ];
    scalar.prop_recursive(4, 24, 3, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::vec((name.clone(), inner), 1..3)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A condition that the server understands, mostly about others' documents.
fn condition() -> impl Strategy<Value = Value> {
    let field = select(vec!["org_id", "_id", "path", "kind", "text"]);
    let value =
        select(vec![json!(null), json!(MINE), json!(THEIRS), json!(numbered(FIRST_OF_THEIRS)), json!("render")]);
    let compare = select(vec!["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]);
    let leaf = (field, compare, value).prop_map(|(field, compare, value)| json!({ field: { compare: value } }));
    leaf.prop_recursive(3, 12, 3, |inner| {
        (select(vec!["$and", "$or", "$nor"]), prop::collection::vec(inner, 1..3))
            .prop_map(|(all, inner)| json!({ all: inner }))
    })
}

fn stage() -> impl Strategy<Value = Value> {
    let stages = ["$match", "$group", "$project", "$set", "$unset", "$unwind", "$sort", "$skip", "$limit", "$count"];
    prop_oneof![
        4 => condition().prop_map(|condition| json!({ "$match": condition })),
        4 => select(vec![
            json!({ "$group": { "_id": null, "n": { "$sum": 1 }, "all": { "$push": "$$ROOT" } } }),
            json!({ "$group": { "_id": "$org_id", "n": { "$sum": "$n" }, "texts": { "$addToSet": "$text" } } }),
            json!({ "$set": { "org_id": THEIRS } }),
            json!({ "$unset": ["org_id", "path"] }),
            json!({ "$project": { "text": 1, "whose": "$org_id", "n": { "$divide": [1, "$n"] } } }),
            json!({ "$unwind": "$list" }),
            json!({ "$sort": { "text": -1, "_id": 1 } }),
            json!({ "$limit": 2 }),
            json!({ "$skip": 1 }),
            json!({ "$count": "n" }),
        ]),
        2 => (select(stages.to_vec()), hostile()).prop_map(|(name, body)| json!({ name: body })),
        1 => (select(LEAVING), hostile()).prop_map(|(name, body)| json!({ name: body })),
        1 => select(whole_stages()),
    ]
}

/// Stages as an attacker would write them.
fn whole_stages() -> Vec<Value> {
    let theirs = json!([{ "$match": { "org_id": THEIRS } }]);
    let collection = Collection::AgentOutputs.name();
    vec![
        json!({ "$lookup": { "from": collection, "pipeline": theirs, "as": "theirs" } }),
        json!({ "$graphLookup": { "from": collection, "startWith": "$kind", "connectFromField": "kind",
                                  "connectToField": "kind", "as": "theirs" } }),
        json!({ "$unionWith": { "coll": collection, "pipeline": theirs } }),
        json!({ "$unionWith": collection }),
        json!({ "$facet": { "theirs": [{ "$unionWith": collection }] } }),
        json!({ "$facet": { "mine": [{ "$count": "n" }] } }),
        json!({ "$out": "stolen" }),
        json!({ "$merge": { "into": collection } }),
        json!({ "$collStats": { "count": {} } }),
        json!({ "$currentOp": {} }),
        json!({ "$match": { "$where": "true" } }),
        json!({ "$match": { "$or": [{ "text": { "$not": { "$where": "true" } } }] } }),
        json!({ "$match": { "$expr": { "$divide": [1, "$n"] } } }),
        json!({ "$match": { "text": { "$regularExpression": { "pattern": "(x+)+y", "options": "" } } } }),
        json!({ "$match": { "text": { "$code": "true" } } }),
        json!({ "$project": { "x": { "$function": { "body": "function() { return 1 }", "args": [], "lang": "js" } } } }),
        json!({ "$match": {}, "$unionWith": collection }),
        json!({ "$unionWith": collection, "$match": {} }),
        json!({}),
        json!([{ "$unionWith": collection }]),
        json!(collection),
    ]
}

fn names_what_leaves(value: &Value) -> bool {
    match value {
        Value::Object(fields) => {
            fields.iter().any(|(name, value)| LEAVING.contains(&name.as_str()) || names_what_leaves(value))
        }
        Value::Array(values) => values.iter().any(names_what_leaves),
        _ => false,
    }
}

/// Fills a database with documents of [`MINE`], and with documents of [`THEIRS`] if they are to be there.
async fn filled(theirs: bool) -> Store {
    let store = Store::new().await;
    for number in 0..3u128 {
        let mine = json!({ "kind": "render", "text": format!("mine {number}"), "n": number + 1, "list": [1, 2] });
        store.door(MINE).put(Collection::AgentOutputs, numbered(number), mine).await.unwrap();
        if theirs {
            // A zero, so that a condition which divides by it fails on their documents alone.
            let content = json!({ "kind": "render", "text": format!("theirs {number}"), "n": 0, "list": [3] });
            let id = numbered(FIRST_OF_THEIRS + number);
            store.door(THEIRS).put(Collection::AgentOutputs, id, content).await.unwrap();
        }
    }
    store
}

/// What came of a pipeline, in a form that does not depend on the order in which groups come.
fn told(outcome: Result<Vec<Value>, DocumentError>) -> Result<Value, String> {
    fn ordered(value: Value) -> Value {
        match value {
            Value::Array(values) => {
                let mut values: Vec<Value> = values.into_iter().map(ordered).collect();
                values.sort_by_key(Value::to_string);
                Value::Array(values)
            }
            Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, ordered(value))).collect(),
            other => other,
        }
    }
    outcome.map(|made| ordered(Value::Array(made))).map_err(|error| error.to_string())
}

/// The same as where the other organisation has no documents at all: neither seen, nor counted, nor felt in an error.
#[test]
fn no_pipeline_tells_whether_others_have_documents() {
    let runtime = runtime();
    let (beside, alone) = runtime.block_on(async { (filled(true).await, filled(false).await) });
    let before = runtime.block_on(beside.all(Collection::AgentOutputs));
    let answered = std::cell::Cell::new(0);
    generated(400, &prop::collection::vec(stage(), 1..4), |pipeline| {
        runtime.block_on(async {
            let outcome = beside.door(MINE).aggregate(Collection::AgentOutputs, &pipeline).await;
            if pipeline.iter().any(names_what_leaves) {
                assert!(matches!(outcome, Err(DocumentError::Refused(_))), "{outcome:?}");
            }
            answered.set(answered.get() + usize::from(outcome.as_ref().is_ok_and(|made| !made.is_empty())));
            let outcome = told(outcome);
            assert!(!format!("{outcome:?}").contains("theirs "), "{outcome:?}");
            assert_eq!(outcome, told(alone.door(MINE).aggregate(Collection::AgentOutputs, &pipeline).await));
        });
    });
    assert!(answered.get() >= 40, "only {} pipelines were answered with documents", answered.get());
    runtime.block_on(async {
        assert_eq!(beside.all(Collection::AgentOutputs).await, before);
        let names: BTreeSet<String> = beside.schema().await.into_keys().collect();
        assert_eq!(names, Collection::ALL.map(|collection| collection.name().to_owned()).into());
    });
}

#[tokio::test]
async fn a_stage_that_leaves_the_organisation_or_writes_is_refused_by_name() {
    let store = filled(true).await;
    for stage in whole_stages() {
        let outcome = store.door(MINE).aggregate(Collection::AgentOutputs, std::slice::from_ref(&stage)).await;
        assert!(matches!(outcome, Err(DocumentError::Refused(_))), "{stage}: {outcome:?}");
    }
    let told = store.door(MINE).aggregate(Collection::AgentOutputs, &[json!({ "$out": "stolen" })]).await;
    assert_eq!(told.unwrap_err().to_string(), "a pipeline may not have $out");
}

#[test]
fn a_kind_is_a_word_and_no_operator() {
    let runtime = runtime();
    let store = runtime.block_on(filled(true));
    generated(64, &hostile(), |kind| {
        runtime.block_on(async {
            let page = store.door(MINE).list(Collection::AgentOutputs, &kind.to_string(), None, PAGE).await.unwrap();
            assert_eq!(page.documents, Vec::<Value>::new());
        });
    });
    // Another's document as the place to go on from: a place in the order of ids, and no more.
    let page = runtime.block_on(async {
        let after = Some(numbered(FIRST_OF_THEIRS + 1));
        store.door(MINE).list(Collection::AgentOutputs, "render", after, PAGE).await.unwrap()
    });
    assert_eq!(page.documents.iter().map(|document| &document["org_id"]).collect::<Vec<_>>(), [&json!(MINE); 3]);
}

#[tokio::test]
async fn what_is_no_document_or_too_large_is_refused_before_the_server_sees_it() {
    let store = Store::new().await;
    let put = async |value: Value| store.door(MINE).put(Collection::ContentCorpus, numbered(1), value).await;
    for value in [
        json!(1),
        json!([]),
        json!("$set"),
        json!({ "$set": { "org_id": THEIRS } }),
        json!({ "a": 1, "$set": { "org_id": THEIRS } }),
        json!({ "$oid": "0123456789abcdef01234567" }),
        json!({ "a": u64::MAX }),
    ] {
        let outcome = put(value.clone()).await;
        assert!(matches!(outcome, Err(DocumentError::Shape)), "{value}: {outcome:?}");
    }
    let outcome = put(json!({ "text": "x".repeat(LARGEST) })).await;
    assert!(matches!(outcome, Err(DocumentError::TooLarge(size)) if size > LARGEST), "{outcome:?}");
    assert_eq!(store.all(Collection::ContentCorpus).await, BTreeMap::new());
    // What the door lets through, the server takes.
    put(json!({ "text": "x".repeat(LARGEST - 1000) })).await.unwrap();
}

#[tokio::test]
async fn an_answer_has_two_hundred_documents_and_no_more() {
    let store = Store::new().await;
    let most = u128::from(PAGE) + 1;
    let collection = Collection::ContentCorpus;
    let documents = (0..most).map(|number| {
        let id = numbered(number);
        doc! { "_id": id.to_string(), "org_id": MINE.to_string(), "kind": "text",
        "path": format!("orgs/{MINE}/{}/{id}", collection.name()) }
    });
    store.raw(collection).insert_many(documents).await.unwrap();
    let page = store.door(MINE).list(collection, "text", None, u16::MAX).await.unwrap();
    assert_eq!((page.documents.len(), page.next), (usize::from(PAGE), Some(numbered(1))));
    let rest = store.door(MINE).list(collection, "text", page.next, 0).await.unwrap();
    assert_eq!((rest.documents.len(), rest.next), (1, None));

    let outcome = store.door(MINE).aggregate(collection, &[]).await;
    assert!(matches!(outcome, Err(DocumentError::TooMany)), "{:?}", outcome.map(|made| made.len()));
    let made = store.door(MINE).aggregate(collection, &[json!({ "$limit": PAGE })]).await.unwrap();
    assert_eq!(made.len(), usize::from(PAGE));
}

/// The embedded server takes one write after the other. MongoDB may refuse all but one of them, and then they are tried again.
#[test]
fn a_document_put_by_many_at_once_is_there_once() {
    let runtime = runtime();
    let store = runtime.block_on(Store::new());
    let at_once = Barrier::new(8);
    let put_all = || {
        let (runtime, documents) = (self::runtime(), documents(&store.name));
        let put = |round| {
            at_once.wait();
            let document = json!({ "kind": "render" });
            runtime.block_on(documents.for_org(MINE).put(Collection::AgentOutputs, numbered(round), document))
        };
        // Told at the end, since nobody else goes on without this one.
        (0..50).map(put).filter_map(Result::err).collect::<Vec<_>>()
    };
    let failed: Vec<DocumentError> = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..8).map(|_| scope.spawn(put_all)).collect();
        lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect()
    });
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(runtime.block_on(store.all(Collection::AgentOutputs)).len(), 50);
}

/// A document that is kept, and whose it is.
fn sound(collection: Collection) -> Document {
    let id = Uuid::now_v7();
    doc! { "_id": id.to_string(), "org_id": MINE.to_string(), "path": format!("orgs/{MINE}/{}/{id}", collection.name()) }
}

/// Writes what must not be kept, past the door.
async fn expect_refusals(store: &Store) {
    for collection in Collection::ALL {
        let documents = store.raw(collection);
        let before = store.all(collection).await;
        let unsound = |field: &str, value: Option<Bson>| {
            let mut document = sound(collection);
            match value {
                Some(value) => document.insert(field, value),
                None => document.remove(field),
            };
            document
        };
        let mut wrong = vec![unsound("org_id", None), unsound("path", None)];
        for other in [Bson::Null, 1.into(), doc! {}.into(), vec![MINE.to_string()].into(), "nord".into(), "".into()] {
            wrong.push(unsound("org_id", Some(other.clone())));
            wrong.push(unsound("path", Some(other.clone())));
            wrong.push(unsound("_id", Some(other)));
        }
        wrong.push(unsound("org_id", Some(MINE.to_string().to_uppercase().replace('0', "A").into())));
        let id = Uuid::now_v7();
        // Whole, and whose it says is nobody.
        let path = format!("orgs/nord/{}/{id}", collection.name());
        wrong.push(doc! { "_id": id.to_string(), "org_id": "nord", "path": path });
        wrong.push(doc! { "_id": id.to_string() });
        for path in [
            format!("orgs/{MINE}"),
            format!("orgs/{MINE}/"),
            format!("/orgs/{MINE}/{}/{id}", collection.name()),
            // Sound in form, and another's, another document's, or in another place.
            format!("orgs/{THEIRS}/{}/{id}", collection.name()),
            format!("orgs/{MINE}/{}/{}", collection.name(), Uuid::now_v7()),
            format!("orgs/{MINE}/elsewhere/{id}"),
        ] {
            wrong.push(doc! { "_id": id.to_string(), "org_id": MINE.to_string(), "path": path });
        }
        for document in wrong {
            let outcome = documents.insert_one(&document).await;
            assert!(outcome.is_err(), "{document} is kept");
        }
        assert_eq!(store.all(collection).await, before);

        let kept = sound(collection);
        documents.insert_one(&kept).await.unwrap();
        let one = doc! { "_id": kept.get_str("_id").unwrap() };
        for change in [
            doc! { "$unset": { "org_id": 1 } },
            doc! { "$set": { "org_id": THEIRS.to_string() } },
            doc! { "$set": { "path": "" } },
        ] {
            assert!(documents.update_one(one.clone(), change.clone()).await.is_err(), "{change}");
        }
        assert_eq!(documents.find_one(one).await.unwrap(), Some(kept));
    }
}

#[tokio::test]
async fn the_server_refuses_a_document_that_does_not_say_whose_it_is() {
    expect_refusals(&Store::new().await).await;
}

#[tokio::test]
async fn every_index_leads_with_the_organisation() {
    let schema = Store::new().await.schema().await;
    assert_eq!(schema.len(), Collection::ALL.len());
    for (collection, (_, indexes)) in schema {
        let others: Vec<&IndexModel> = indexes.iter().filter(|index| index.keys != doc! { "_id": 1 }).collect();
        assert!(!others.is_empty(), "{collection}");
        for index in others {
            assert_eq!(index.keys.keys().next().map(String::as_str), Some("org_id"), "{collection}: {index:?}");
        }
    }
}

#[tokio::test]
async fn preparing_again_changes_nothing() {
    let store = Store::bare().await;
    assert_eq!(store.documents.ensure_schema().await.unwrap().len(), 2 * Collection::ALL.len());
    let before = store.schema().await;
    assert_eq!(store.documents.ensure_schema().await.unwrap(), Vec::<String>::new());
    assert_eq!(format!("{:?}", store.schema().await), format!("{before:?}"));
}

#[tokio::test]
async fn what_was_prepared_otherwise_is_mended() {
    let collections = Collection::ALL.map(Collection::name);
    let changed = collections.map(|name| format!("changed the validator of {name}"));

    // As an earlier release, or nobody at all, left it, with a document that was right then.
    let store = Store::bare().await;
    let old = doc! { "$jsonSchema": { "bsonType": "object", "required": ["_id", "org_id"] } };
    store.raw.create_collection(collections[0]).validator(old).await.unwrap();
    store.raw(Collection::AgentOutputs).insert_one(doc! { "_id": MINE.to_string(), "org_id": 1 }).await.unwrap();
    store.raw.create_collection(collections[1]).await.unwrap();
    let done = store.documents.ensure_schema().await.unwrap();
    assert!(changed.iter().all(|change| done.contains(change)), "{done:?}");
    expect_refusals(&store).await;

    // The right validator, and made toothless.
    for (name, weaker) in
        collections.into_iter().zip([doc! { "validationAction": "warn" }, doc! { "validationLevel": "off" }])
    {
        let mut change = doc! { "collMod": name };
        change.extend(weaker);
        store.raw.run_command(change).await.unwrap();
    }
    assert_eq!(store.documents.ensure_schema().await.unwrap(), changed);
    expect_refusals(&store).await;
    assert_eq!(store.documents.ensure_schema().await.unwrap(), Vec::<String>::new());
}

fn migrate(variables: &[(&str, &str)]) -> Output {
    Command::new(integration_tests::binaries().join("spine-local"))
        .arg("migrate")
        .env_remove("DATABASE_URL")
        .env_remove("MONGODB_URI")
        .env_remove("MONGODB_DATABASE")
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

#[tokio::test]
async fn the_command_prepares_what_it_is_pointed_at() {
    let store = Store::bare().await;
    let uri = integration_tests::mongodb_uri();
    let variables = [("MONGODB_URI", uri.as_str()), ("MONGODB_DATABASE", store.name.as_str())];
    for (changes, told) in [(4, "MongoDB: created content_corpus"), (0, "MongoDB: 0 changed")] {
        let output = migrate(&variables);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "{said}");
        assert!(said.contains(told), "{said}");
        assert!(said.contains(&format!("{changes} changed in {}", store.name)), "{said}");
    }
    expect_refusals(&store).await;

    let output = migrate(&[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("DATABASE_URL") && said.contains("MONGODB_URI"), "{said}");
}

/// Every Rust source below `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<PathBuf> = entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    assert!(!found.is_empty() || !folder.ends_with("src"), "{} has no sources", folder.display());
    found
}

/// The words of a source, comments left out.
fn words(source: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(source).unwrap();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_')).map(str::to_owned).collect()
}

fn cargo(args: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO")).args(args).args(["--locked", "--offline"]).current_dir(home::root()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn nothing_but_the_door_speaks_to_mongodb() {
    let root = home::root();
    let door = root.join("shared/src/documents.rs");
    assert!(words(&door).contains("mongodb"));
    for source in [sources(&root.join("shared/src")), sources(&root.join("functions"))].concat() {
        let named = words(&source);
        let driver = ["mongodb", "bson"].iter().any(|word| named.contains(*word));
        assert!(!driver || source == door, "{} names the driver", source.display());
    }
    // Nor does the door hand the driver out.
    for line in std::fs::read_to_string(&door).unwrap().lines() {
        let driver = ["mongodb::", "Client", "Bson", "Document>", "impl Deref"].iter().any(|word| line.contains(word));
        let public = line.trim_start().starts_with("pub ") || line.contains("impl Deref");
        assert!(!(public && driver), "{line}");
    }

    let workspace: Value = serde_json::from_str(&cargo(&["metadata", "--no-deps", "--format-version", "1"])).unwrap();
    for package in workspace["packages"].as_array().unwrap() {
        for dependency in package["dependencies"].as_array().unwrap() {
            let allowed = match package["name"].as_str().unwrap() {
                "shared" => dependency["optional"] == true,
                // They look past the door, and it is linked to tests alone.
                "integration-tests" | "soak" | "workspace-hack" => true,
                _ => false,
            };
            let hack = dependency["name"] == "workspace-hack";
            assert!(!hack || dependency["kind"] == "dev", "{} links workspace-hack", package["name"]);
            let driver = ["mongodb", "bson"].iter().any(|name| dependency["name"] == *name);
            assert!(!driver || allowed, "{} depends on {}", package["name"], dependency["name"]);
        }
    }
}

#[test]
fn only_functions_that_use_documents_link_the_driver() {
    let functions = home::root().join("functions");
    let mut linking = 0;
    for entry in std::fs::read_dir(functions).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        let name = entry.file_name().into_string().unwrap();
        let uses = sources(&entry.path()).iter().any(|source| words(source).contains("documents"));
        let links = cargo(&["tree", "--edges", "normal", "--prefix", "none", "--package", &name]).contains("mongodb v");
        assert_eq!(links, uses, "{name}");
        linking += usize::from(links);
    }
    assert!(linking > 0);
}
