//! Somebody is invited by mail and joins by the link in it; an owner is mailed that a limit is near, in her language.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use local::database;
use sandbox::mail::Received;
use serde_json::{Value, json};
use sqlx::Executor;
use uuid::Uuid;

use super::{
    Demo, ORG, OWNER, PATIENCE, Steps,
    judge::{count, flag, text},
};

/// Who is invited, and has no account yet.
const INVITED: &str = "nils@consultants.example";

impl Demo<'_> {
    pub(super) async fn tell_mail(&self, steps: &mut Steps) -> Result<()> {
        steps.judge("mail-received", judge, self.see_mail().await);
        Ok(())
    }

    async fn see_mail(&self) -> Result<Value> {
        let mut owner = self.as_owner().await?;
        owner.execute("update public.profiles set language = 'sv'").await?;
        sqlx::query("select public.create_invitation('consultant', $1)").bind(INVITED).execute(&mut owner).await?;
        owner.execute("commit").await?;
        let invitation = self.mail_to(INVITED, "Du är inbjuden").await?;
        // The step before has reached a limit.
        let limit = self.mail_to(OWNER.1, "Atelier Nord: en gräns").await?;

        let link = invitation.text.split_once("#token=").map(|(_, rest)| rest).context("the mail has no link")?;
        let token = link.split_whitespace().next().context("the link has no token")?;
        let mut admin = database::connect(self.admin_url).await?;
        let (kept, id): (bool, Uuid) = sqlx::query_as(
            "select (select count(*) > 0 from public.invitations i, public.outbox o where i::text || o::text like '%' || split_part($1, '.', 2) || '%'),
                    app.uuidv7()",
        )
        .bind(token)
        .fetch_one(&mut admin)
        .await?;
        sqlx::query("insert into auth.users (id, email) values ($1, $2)")
            .bind(id)
            .bind(INVITED)
            .execute(&mut admin)
            .await?;
        admin.execute("begin").await?;
        sqlx::query("select set_config('request.jwt.claims', $1, true), set_config('role', 'authenticated', true)")
            .bind(json!({ "sub": id, "email": INVITED, "role": "authenticated" }).to_string())
            .execute(&mut admin)
            .await?;
        let joined: Uuid =
            sqlx::query_scalar("select public.accept_invitation($1)").bind(token).fetch_one(&mut admin).await?;
        admin.execute("commit").await?;
        let invitations = self.stack.sandbox.mailbox.mails().iter().filter(|mail| mail.to == [INVITED]).count();
        Ok(json!({
            "invitations": invitations, "invitation": invitation.subject, "limit": limit.subject, "token_is_kept": kept,
            "joined": joined == ORG.parse::<Uuid>()?,
        }))
    }

    /// The first mail to somebody whose subject begins so, once it is there.
    async fn mail_to(&self, address: &str, subject: &str) -> Result<Received> {
        let begun = Instant::now();
        loop {
            let mails = self.stack.sandbox.mailbox.mails();
            if let Some(mail) = mails.into_iter().find(|mail| mail.to == [address] && mail.subject.starts_with(subject))
            {
                return Ok(mail);
            }
            ensure!(begun.elapsed() < PATIENCE, "no mail to {address} came");
            self.stack.sweep().await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn judge(seen: &Value) -> Result<String> {
    let (invitations, invitation, limit) =
        (count(seen, "invitations")?, text(seen, "invitation")?, text(seen, "limit")?);
    ensure!(
        invitations == 1 && invitation == "Du är inbjuden till Atelier Nord",
        "it is not invited by one mail: {seen}"
    );
    ensure!(limit.starts_with("Atelier Nord: en gräns är n"), "the owner was not mailed of a limit in Swedish: {seen}");
    ensure!(!flag(seen, "token_is_kept")?, "the database holds the token that was mailed: {seen}");
    ensure!(flag(seen, "joined")?, "the link did not let anybody in: {seen}");
    Ok(format!(
        "“{invitation}”: {invitations} mail, whose link lets in its address and is kept nowhere; to the owner: “{limit}”"
    ))
}

/// What the step sees where all is well.
#[cfg(test)]
pub(super) fn examples() -> Vec<super::judge::Example> {
    vec![(
        "mail-received",
        judge,
        json!({
            "invitations": 1, "invitation": "Du är inbjuden till Atelier Nord", "limit": "Atelier Nord: en gräns är nådd",
            "token_is_kept": false, "joined": true,
        }),
    )]
}
