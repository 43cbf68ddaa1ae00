//! Photos are uploaded and rendered, renders called off and asked for again.

use std::time::Duration;

use anyhow::Result;
use integration_tests::small_photo;
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Ask, Soak};
use crate::{
    cast::{Organisation, Person, WISH_MARK, sign_in},
    ledger::Ledger,
};

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Who<'a> {
    Person(&'a Person),
    Agent(Uuid, &'a str),
}

impl Who<'_> {
    fn id(self) -> Uuid {
        match self {
            Self::Person(person) => person.id,
            Self::Agent(id, _) => id,
        }
    }
}

/// A render that was accepted.
struct Mine {
    id: Uuid,
    job: Uuid,
}

pub(super) async fn lane(soak: &Soak<'_>, org: &Organisation, who: Who<'_>, stranger: &Organisation) -> Result<()> {
    let mut random = soak.random(&format!("renders {}", who.id()));
    let token = match who {
        Who::Person(person) => sign_in(soak.ground, person)?,
        Who::Agent(_, token) => token.to_owned(),
    };
    let strangers = sign_in(soak.ground, &stranger.designer)?;
    let photo = small_photo();
    let mut mine: Vec<Mine> = Vec::new();
    let mut number = 0;
    while soak.goes_on() {
        soak.pause(&mut random, Duration::from_millis(1500)).await;
        if soak.crowded() {
            continue;
        }
        number += 1;
        let key = format!("{}-{number}", who.id());
        let Some(upload) = upload(soak, &token, &photo, &key, &mut random).await else { continue };
        let lane = Lane { soak, org, who, token: &token };
        if let Some(render) = lane.ask(upload, &key, &mut random).await {
            mine.push(render);
        }
        if let Some(render) = mine.choose(&mut random) {
            lane.look_after(render, &strangers, &mut random).await;
        }
    }
    Ok(())
}

/// Gets a signed address and puts the photo there. The upload's id, if both worked in the end.
async fn upload(soak: &Soak<'_>, token: &str, photo: &[u8], key: &str, random: &mut StdRng) -> Option<Uuid> {
    let (body, key) = (json!({ "content_type": "image/jpeg", "bytes": photo.len() }), format!("upload-{key}"));
    let ask = Ask { route: "POST /v1/uploads", path: "/v1/uploads", token, body: Some(&body), key: Some(&key) };
    let answer = soak.insist(ask).await.filter(|answer| answer.status == 201)?;
    let id = id_of(&answer.body["upload_id"])?;
    if random.random_bool(0.1)
        && let Some(again) = soak.insist(ask).await
        && id_of(&again.body["upload_id"]) != Some(id)
    {
        soak.ledger.saw("answers.replays", format!("the key {key} gave upload {id} and then {}", again.body));
    }
    soak.confirmed(async || {
        let put = soak.http.put(answer.body["url"].as_str().unwrap_or_default()).body(photo.to_vec()).send().await?;
        Ok(put.error_for_status()?)
    })
    .await?;
    Some(id)
}

fn id_of(value: &Value) -> Option<Uuid> {
    value.as_str()?.parse().ok()
}

struct Lane<'a> {
    soak: &'a Soak<'a>,
    org: &'a Organisation,
    who: Who<'a>,
    token: &'a str,
}

impl Lane<'_> {
    fn ledger(&self) -> &Ledger {
        self.soak.ledger
    }

    fn accept(&self, kind: &'static str, id: Uuid, key: Option<&str>) {
        self.ledger().accept(kind, self.org.id, id, key, self.who.id());
    }

    /// Asks for a render; sometimes again with the same key, and sometimes for another with it.
    async fn ask(&self, upload: Uuid, key: &str, random: &mut StdRng) -> Option<Mine> {
        let body = json!({
            "project_id": self.org.project, "upload_id": upload,
            "model": if random.random_bool(0.15) { "gemini-3-pro-image" } else { "gemini-3.1-flash-image" },
            "variants": *[1, 1, 1, 2, 3].choose(random).unwrap_or(&1),
            // A few styles: the cache serves the same render to the same person, when a quota is spent.
            "parameters": {
                "style": *["japandi", "art deco"].choose(random).unwrap_or(&"japandi"),
                "walls": format!("lime plaster {WISH_MARK}"),
            },
        });
        let route = "POST /v1/render-requests";
        let ask = Ask { route, path: "/v1/render-requests", token: self.token, body: Some(&body), key: Some(key) };
        // Sometimes twice at once, as a client does that lost its patience.
        let answer = if random.random_bool(0.15) {
            let (one, other) = tokio::join!(self.soak.insist(ask), self.soak.insist(ask));
            let ids: Vec<_> =
                [&one, &other].into_iter().flatten().filter_map(|answer| id_of(&answer.body["id"])).collect();
            if ids.windows(2).any(|pair| pair[0] != pair[1]) {
                self.ledger().saw("answers.replays", format!("the key {key}, sent twice at once, made {ids:?}"));
            }
            one.or(other)
        } else {
            self.soak.insist(ask).await
        };
        let answer = answer.filter(|answer| answer.status == 202)?;
        let render = Mine { id: id_of(&answer.body["id"])?, job: id_of(&answer.body["job"]["id"])? };
        self.accept("render", render.id, Some(key));
        if random.random_bool(0.15)
            && let Some(again) = self.soak.insist(ask).await
            && id_of(&again.body["id"]) != Some(render.id)
        {
            self.ledger().saw(
                "answers.replays",
                format!("the key {key} made render {} and then gave {}", render.id, again.body),
            );
        }
        if random.random_bool(0.05) {
            let other = json!({ "project_id": self.org.project, "upload_id": upload, "variants": 4,
                                "parameters": { "style": "another" } });
            let answer = self.soak.insist(Ask { body: Some(&other), ..ask }).await;
            if answer.as_ref().is_some_and(|answer| answer.status < 300) {
                self.ledger().saw("answers.replays", format!("the key {key} was taken for another request"));
            }
        }
        Some(render)
    }

    /// Reads one, has a stranger try, calls it off, or asks for it again where it failed.
    async fn look_after(&self, render: &Mine, strangers: &str, random: &mut StdRng) {
        let (id, job) = (render.id, render.job);
        let path = format!("/v1/render-requests/{id}");
        let read = Ask { route: "GET /v1/render-requests/{id}", path: &path, token: self.token, body: None, key: None };
        match random.random_range(0..10) {
            0 | 1 => {
                let route = "GET /v1/render-requests/{id} by a stranger";
                let answer = self.soak.insist(Ask { route, token: strangers, ..read }).await;
                if answer.as_ref().is_some_and(|answer| answer.status != 404) {
                    self.ledger()
                        .saw("answers.strangers", format!("a stranger asked for render {id} and got {answer:?}"));
                }
            }
            2 | 3 => {
                let path = format!("/v1/jobs/{job}/cancel");
                let ask = Ask { route: "POST /v1/jobs/{id}/cancel", path: &path, ..read };
                let answer = if random.random_bool(0.3) {
                    let (one, other) = tokio::join!(self.soak.insist(ask), self.soak.insist(ask));
                    one.or(other)
                } else {
                    self.soak.insist(ask).await
                };
                if answer.is_some_and(|answer| answer.body["status"] == "cancelled") {
                    self.accept("cancel", job, None);
                }
            }
            4 | 5 => {
                let Some(shown) = self.soak.insist(read).await else { return };
                if matches!(shown.body["status"].as_str(), Some("failed" | "cancelled")) {
                    let path = format!("{path}/process");
                    // Before it is sent: if the answer is lost, the render may go on all the same.
                    self.accept("process sent", id, None);
                    let ask = Ask { route: "POST /v1/render-requests/{id}/process", path: &path, ..read };
                    self.soak.insist(ask).await;
                }
            }
            6 => {
                let path = format!("/v1/jobs/{job}");
                self.soak.insist(Ask { route: "GET /v1/jobs/{id}", path: &path, ..read }).await;
            }
            _ => {
                if let Some(shown) = self.soak.insist(read).await
                    && shown.status != 200
                {
                    self.ledger().saw("answers.own", format!("render {id} was accepted and its asker got {shown:?}"));
                }
            }
        }
    }
}
