//! Rules that hold for every template: least rights, throttling, logs that end, alarms that reach people. No kept snapshot changes them.

use std::collections::BTreeSet;

use local::functions::{FUNCTIONS, Function};
use serde_json::{Value, json};

use super::{of_type, template};

/// The kinds of resources there are. Another kind may grant rights or cost money in ways that no rule here looks for.
const KINDS: [&str; 9] = [
    "AWS::CloudWatch::Alarm",
    "AWS::IAM::Role",
    "AWS::Logs::LogGroup",
    "AWS::Logs::MetricFilter",
    "AWS::SNS::Subscription",
    "AWS::SNS::Topic",
    "AWS::SQS::Queue",
    "AWS::Serverless::Function",
    "AWS::Serverless::HttpApi",
];

/// One action on one resource, under a condition.
type Right = (String, String, String);

fn right(action: &str, resource: &Value, condition: &Value) -> Right {
    (action.to_owned(), resource.to_string(), condition.to_string())
}

fn many(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_else(|| vec![value.clone()])
}

/// The statements there may be, both sides of a condition included.
fn statements(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(all) => all.iter().flat_map(statements).collect(),
        Value::Object(fields) if fields.contains_key("Fn::If") => {
            value["Fn::If"].as_array().unwrap()[1..].iter().flat_map(statements).collect()
        }
        value if *value == json!({ "Ref": "AWS::NoValue" }) => Vec::new(),
        statement => vec![statement.clone()],
    }
}

/// All that a role grants.
fn granted(role: &str, properties: &Value) -> BTreeSet<Right> {
    let parts: BTreeSet<&str> = properties.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(parts, BTreeSet::from(["AssumeRolePolicyDocument", "Policies"]), "{role}");
    let policies = properties["Policies"].as_array().unwrap().iter();
    let all = policies.flat_map(|policy| statements(&policy["PolicyDocument"]["Statement"]));
    let mut rights = BTreeSet::new();
    for statement in all {
        let known = ["Sid", "Effect", "Action", "Resource", "Condition"];
        for part in statement.as_object().unwrap().keys() {
            assert!(known.contains(&part.as_str()), "{role}: {part} in {statement}");
        }
        assert_eq!(statement["Effect"], "Allow", "{role}: {statement}");
        for action in many(&statement["Action"]) {
            for resource in many(&statement["Resource"]) {
                rights.insert(right(action.as_str().unwrap(), &resource, &statement["Condition"]));
            }
        }
    }
    rights
}

/// All that a function needs.
fn needed(function: &Function, failures: Option<&str>) -> BTreeSet<Right> {
    let arn = |id: String| json!({ "Fn::GetAtt": [id, "Arn"] });
    let log = arn(format!("{}Logs", function.name));
    let stages =
        json!({ "ForAnyValue:StringEquals": { "secretsmanager:VersionStage": ["AWSCURRENT", "AWSPREVIOUS"] } });
    let through = json!({ "StringEquals": { "kms:ViaService": { "Fn::Sub": "secretsmanager.${AWS::Region}.${AWS::URLSuffix}" } } });
    let mut rights = BTreeSet::from([
        right("logs:CreateLogStream", &log, &Value::Null),
        right("logs:PutLogEvents", &log, &Value::Null),
        right("secretsmanager:GetSecretValue", &json!({ "Ref": "SecretsArn" }), &stages),
        right("kms:Decrypt", &json!({ "Ref": "SecretsKeyArn" }), &through),
    ]);
    let queue = |name: &str| arn(format!("{name}Queue"));
    rights.extend(function.sends.iter().map(|to| right("sqs:SendMessage", &queue(to.resource), &Value::Null)));
    rights.extend(failures.map(|id| right("sqs:SendMessage", &arn(id.to_owned()), &Value::Null)));
    if let Some(from) = function.queue {
        for action in ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"] {
            rights.insert(right(action, &queue(from.resource), &Value::Null));
        }
    }
    rights
}

#[test]
fn every_role_grants_exactly_what_its_function_needs() {
    let template = template();
    for function in FUNCTIONS {
        let properties = &template["Resources"][function.name]["Properties"];
        let sink = &properties["EventInvokeConfig"]["DestinationConfig"]["OnFailure"]["Destination"]["Fn::GetAtt"][0];
        let role = format!("{}Role", function.name);
        assert_eq!(properties["Role"], json!({ "Fn::GetAtt": [role, "Arn"] }), "{}", function.name);
        assert_eq!(
            granted(&role, &template["Resources"][&role]["Properties"]),
            needed(&function, sink.as_str()),
            "{role}: on the left what it grants, on the right what its function needs"
        );
    }
}

#[test]
fn nothing_but_a_functions_own_role_grants_a_right() {
    let template = template();
    for (name, resource) in template["Resources"].as_object().unwrap() {
        let kind = resource["Type"].as_str().unwrap();
        assert!(KINDS.contains(&kind), "{name} is {kind}, which no rule of the template knows");
    }
    let roles: BTreeSet<String> = of_type(&template, "AWS::IAM::Role").iter().map(|(id, _)| (*id).to_owned()).collect();
    let wanted: BTreeSet<String> = FUNCTIONS.iter().map(|function| format!("{}Role", function.name)).collect();
    assert_eq!(roles, wanted);
    // The Serverless transform makes roles and addresses of these.
    for (name, function) in of_type(&template, "AWS::Serverless::Function") {
        for part in ["Policies", "AssumeRolePolicyDocument", "FunctionUrlConfig", "Connectors", "Layers", "VpcConfig"] {
            assert!(function[part].is_null(), "{name}: {part}");
        }
    }
    let globals: Vec<&String> = template["Globals"].as_object().unwrap().keys().collect();
    assert_eq!(globals, ["Function"]);
    assert!(template["Globals"]["Function"]["Policies"].is_null());
}

#[test]
fn the_api_lets_through_only_so_many_requests() {
    let template = template();
    let apis = of_type(&template, "AWS::Serverless::HttpApi");
    assert_eq!(apis.len(), 1);
    let api = apis[0].1;
    let limits = json!({ "ThrottlingRateLimit": { "Ref": "ThrottlingRate" }, "ThrottlingBurstLimit": { "Ref": "ThrottlingBurst" } });
    assert_eq!(api["DefaultRouteSettings"], limits);
    assert!(api["RouteSettings"].is_null(), "a route has limits of its own");
    for (parameter, default, most) in [("ThrottlingRate", 50, 10_000), ("ThrottlingBurst", 100, 5_000)] {
        let given = &template["Parameters"][parameter];
        assert_eq!(
            (&given["Type"], &given["Default"], &given["MinValue"], &given["MaxValue"]),
            (&json!("Number"), &json!(default), &json!(1), &json!(most)),
            "{parameter}"
        );
    }
    // Every route belongs to this API.
    for function in FUNCTIONS {
        let events = template["Resources"][function.name]["Properties"]["Events"].as_object();
        for event in events.into_iter().flat_map(|events| events.values()).filter(|event| event["Type"] == "HttpApi") {
            assert_eq!(event["Properties"]["ApiId"], json!({ "Ref": "Api" }), "{}", function.name);
            assert!(event["Properties"]["RouteSettings"].is_null(), "{}", function.name);
        }
    }
}

#[test]
fn no_log_is_kept_for_ever() {
    let template = template();
    let groups = of_type(&template, "AWS::Logs::LogGroup");
    for (name, group) in &groups {
        assert_eq!(group["RetentionInDays"], json!({ "Ref": "LogRetentionDays" }), "{name}");
        assert!(template["Resources"][*name]["DeletionPolicy"].is_null(), "{name} outlives the stack");
    }
    let days = &template["Parameters"]["LogRetentionDays"];
    assert_eq!(days["Default"], 30);
    let allowed: Vec<i64> = days["AllowedValues"].as_array().unwrap().iter().map(|day| day.as_i64().unwrap()).collect();
    assert!(allowed.iter().all(|day| (1..=365).contains(day)), "{allowed:?}");
    // What writes to a group that is not here has one made, which ends never.
    let named: BTreeSet<&str> = groups.iter().map(|(name, _)| *name).collect();
    let written = FUNCTIONS.iter().map(|function| {
        let group = &template["Resources"][function.name]["Properties"]["LoggingConfig"]["LogGroup"]["Ref"];
        group.as_str().unwrap_or_else(|| panic!("{} has no log group", function.name))
    });
    let api =
        template["Resources"]["Api"]["Properties"]["AccessLogSettings"]["DestinationArn"]["Fn::GetAtt"][0].as_str();
    assert_eq!(named, written.chain(api).collect());
}

#[test]
fn every_alarm_reaches_people() {
    let template = template();
    let to = json!([{ "Fn::If": ["MakesTopic", { "Ref": "AlarmTopic" }, { "Ref": "AlarmTopicArn" }] }]);
    for (id, alarm) in of_type(&template, "AWS::CloudWatch::Alarm") {
        assert_eq!(alarm["AlarmActions"], to, "{id}");
        assert!(alarm["ActionsEnabled"].is_null() || alarm["ActionsEnabled"] == true, "{id} is silent");
        // Silence is a fault of the one alarm that watches whether anything runs at all.
        let missing = if id == "SweepNotRunningAlarm" { "breaching" } else { "notBreaching" };
        assert_eq!(alarm["TreatMissingData"], missing, "{id}");
        assert!(alarm["DatapointsToAlarm"].is_null(), "{id} needs fewer data than periods");
        assert!(template["Resources"][id]["Condition"].is_null(), "{id} is not in every stack");
    }
    let topic = &template["Resources"]["AlarmTopic"];
    assert_eq!((&topic["Type"], &topic["Condition"]), (&json!("AWS::SNS::Topic"), &json!("MakesTopic")));
    assert_eq!(
        template["Resources"]["AlarmSubscription"]["Properties"],
        json!({ "TopicArn": { "Ref": "AlarmTopic" }, "Protocol": "email", "Endpoint": { "Ref": "AlarmEmail" } })
    );
}
