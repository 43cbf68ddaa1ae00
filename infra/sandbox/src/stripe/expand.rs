//! `expand[]`: objects in the place of their ids.

use serde_json::{Value, json};

use super::{
    objects::{SHOWN, Shape},
    refusal::Refusal,
    rest::Asked,
    world::{Resource, Table, World},
};

impl World {
    /// The answer, with everything expanded that was asked for.
    pub(super) fn expand(&self, mut answer: Value, asked: &Asked<'_>) -> Result<Value, Refusal> {
        for path in asked.form.all("expand") {
            let steps: Vec<&str> = path.split('.').collect();
            if !self.expand_at(&mut answer, &steps, asked.shape) {
                return Err(Refusal::invalid("expand", format!("This property cannot be expanded ({path}).")));
            }
        }
        Ok(answer)
    }

    /// Whether there is something to be expanded on this path. Where a list is empty or a field null, that is not known.
    fn expand_at(&self, at: &mut Value, steps: &[&str], shape: Shape) -> bool {
        if let Value::Array(items) = at {
            return items.iter_mut().all(|item| self.expand_at(item, steps, shape));
        }
        let [step, rest @ ..] = steps else { return true };
        if *step == "payments" && at["object"] == "invoice" {
            at[*step] = self.payments_of(at["id"].as_str().unwrap_or_default(), shape);
        }
        let Some(field) = at.get_mut(*step) else { return false };
        match field {
            Value::Null => true,
            Value::String(id) => match self.rendered(id, shape) {
                Some(found) => {
                    *field = found;
                    self.expand_at(field, rest, shape)
                }
                None => false,
            },
            _ => self.expand_at(field, rest, shape),
        }
    }

    fn payments_of(&self, invoice: &str, shape: Shape) -> Value {
        let payments = self.invoice_payments.all().iter().filter(|payment| payment.invoice == invoice);
        let payments: Vec<Value> = payments.map(|payment| payment.render(shape)).collect();
        let (shown, url) = (payments.iter().take(SHOWN), format!("/v1/invoice_payments?invoice={invoice}"));
        json!({ "object": "list", "data": shown.collect::<Vec<_>>(), "has_more": payments.len() > SHOWN, "url": url })
    }

    /// What has this id.
    fn rendered(&self, id: &str, shape: Shape) -> Option<Value> {
        fn of<T: Resource>(table: &Table<T>, id: &str, shape: Shape) -> Option<Value> {
            table.find(id).map(|found| found.render(shape))
        }
        match id.split('_').next()? {
            "cus" => of(&self.customers, id, shape),
            "sub" => of(&self.subscriptions, id, shape),
            "in" => of(&self.invoices, id, shape),
            "pi" => of(&self.payment_intents, id, shape),
            "ch" => of(&self.charges, id, shape),
            "price" => of(&self.prices, id, shape),
            _ => None,
        }
    }
}
