//! template.yaml says to AWS what the functions are, and both must agree. That it is well-formed its own linters check.

use std::{collections::BTreeSet, process::Command, time::Duration};

use integration_tests::TestApp;
use local::{
    functions::{FUNCTIONS, Function},
    home,
    lambda::{InvokeError, Lambda},
};
use serde_json::{Value, json};

/// The template as JSON, short forms of intrinsic functions written out.
fn template() -> Value {
    let read =
        "import json, sys; from samtranslator.yaml_helper import yaml_parse; print(json.dumps(yaml_parse(sys.stdin)))";
    let root = home::root();
    let output = Command::new(home::installed(&root, "tools").unwrap().join("bin/python"))
        .args(["-c", read])
        .stdin(std::fs::File::open(root.join("template.yaml")).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn of_type<'a>(template: &'a Value, wanted: &str) -> Vec<(&'a str, &'a Value)> {
    let resources = template["Resources"].as_object().unwrap();
    resources
        .iter()
        .filter(|(_, resource)| resource["Type"] == wanted)
        .map(|(name, resource)| (name.as_str(), &resource["Properties"]))
        .collect()
}

fn resource<'a>(template: &'a Value, function: &Function) -> &'a Value {
    let resource = &template["Resources"][function.name];
    assert_eq!(resource["Type"], "AWS::Serverless::Function", "{}", function.name);
    &resource["Properties"]
}

#[test]
fn every_function_is_deployed_as_it_runs_here() {
    let template = template();
    let deployed: BTreeSet<&str> =
        of_type(&template, "AWS::Serverless::Function").into_iter().map(|(name, _)| name).collect();
    assert_eq!(deployed, FUNCTIONS.iter().map(|function| function.name).collect());
    let folders = std::fs::read_dir(home::root().join("functions")).unwrap().flatten();
    let folders: BTreeSet<String> = folders.map(|folder| folder.file_name().into_string().unwrap()).collect();
    assert_eq!(folders, FUNCTIONS.iter().map(|function| function.binary.to_owned()).collect());
    assert_eq!(template["Globals"]["Function"]["Runtime"], "provided.al2023");

    for function in FUNCTIONS {
        let properties = resource(&template, &function);
        let name = function.name;
        assert_eq!(properties["CodeUri"], format!("target/lambda/{}/bootstrap.zip", function.binary), "{name}");
        assert_eq!(properties["Timeout"].as_u64(), Some(function.timeout.as_secs()), "{name}");
        let events: Vec<&Value> =
            properties["Events"].as_object().into_iter().flat_map(|events| events.values()).collect();
        let of = |kind: &'static str| {
            events.iter().filter(move |event| event["Type"] == kind).map(|event| &event["Properties"])
        };
        let paths: BTreeSet<&str> = of("HttpApi").map(|event| event["Path"].as_str().unwrap()).collect();
        for path in &paths {
            let prefix = path.trim_end_matches("/{proxy+}");
            assert!(function.routes.contains(&prefix), "{name}: {path}");
        }
        for route in function.routes {
            assert!(paths.contains(route) || paths.contains(format!("{route}/{{proxy+}}").as_str()), "{name}: {route}");
        }
        let queues: Vec<&Value> = of("SQS").collect();
        assert_eq!(queues.len(), usize::from(function.queue.is_some()), "{name}");
        for queue in queues {
            assert_eq!(queue["BatchSize"].as_u64(), Some(function.batch as u64), "{name}");
            assert_eq!(queue["FunctionResponseTypes"], json!(["ReportBatchItemFailures"]), "{name}");
            assert!(queue["ScalingConfig"]["MaximumConcurrency"].is_object(), "{name}");
            let wanted = queue["Queue"]["Fn::GetAtt"][0].as_str().unwrap();
            let (_, sqs) = of_type(&template, "AWS::SQS::Queue").into_iter().find(|(id, _)| *id == wanted).unwrap();
            assert_eq!(sqs["VisibilityTimeout"].as_u64(), Some(6 * function.timeout.as_secs()), "{name}");
            assert_eq!(sqs["RedrivePolicy"]["maxReceiveCount"].as_u64(), Some(5), "{name}");
        }
        let schedules: Vec<&Value> = of("Schedule").map(|event| &event["Schedule"]).collect();
        assert_eq!(schedules.len(), usize::from(function.schedule.is_some()), "{name}");
        if let Some(period) = function.schedule {
            assert_eq!(period, Duration::from_secs(60));
            assert_eq!(schedules, ["rate(1 minute)"], "{name}");
        }
    }
}

#[test]
fn no_role_may_more_than_its_function_does() {
    let template = template();
    for function in FUNCTIONS {
        let role = resource(&template, &function)["Role"]["Fn::GetAtt"][0].as_str().unwrap().to_owned();
        assert_eq!(role, format!("{}Role", function.name), "each has a role of its own");
        let properties = &template["Resources"][&role]["Properties"];
        assert!(properties["ManagedPolicyArns"].is_null(), "{role}");
        let mut actions = BTreeSet::new();
        let statements = properties["Policies"][0]["PolicyDocument"]["Statement"].as_array().unwrap();
        for statement in statements {
            let statement = statement.get("Fn::If").map_or(statement, |branches| &branches[1]);
            assert_ne!(statement["Resource"], "*", "{role}");
            match &statement["Action"] {
                Value::Array(many) => actions.extend(many.iter().map(|action| action.as_str().unwrap())),
                one => actions.extend(one.as_str()),
            }
        }
        let mut wanted = BTreeSet::from([
            "logs:CreateLogStream",
            "logs:PutLogEvents",
            "secretsmanager:GetSecretValue",
            "kms:Decrypt",
        ]);
        match function.name {
            "ProcessRenderRequestHttp" | "AssignLeadsHttp" | "GenerateAiInsightsHttp" => {
                wanted.extend(["sqs:SendMessage"]);
            }
            // The failed invocation's record goes to a dead-letter queue of its own.
            "Sweep" => wanted.extend(["sqs:SendMessage"]),
            "ProcessRenderRequestWorker" => {
                wanted.extend(["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]);
            }
            // Their schedules send what they find to their own queues.
            "AssignLeadsWorker" | "GenerateAiInsightsWorker" => {
                wanted.extend(["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:SendMessage"]);
            }
            _ => {}
        }
        assert_eq!(actions, wanted, "{role}");
    }
}

#[test]
fn every_function_that_fails_rings_and_every_alarm_is_explained() {
    let template = template();
    let alarms = of_type(&template, "AWS::CloudWatch::Alarm");
    for function in FUNCTIONS {
        let watches = |metric: &Value, name: &str| {
            metric["MetricName"] == name && metric["Dimensions"][0]["Value"]["Ref"] == function.name
        };
        assert!(alarms.iter().any(|(_, alarm)| watches(alarm, "Errors")), "{}: no alarm on its errors", function.name);
        let throttles = &template["Resources"]["ThrottlesAlarm"]["Properties"]["Metrics"];
        let throttled = throttles.as_array().unwrap().iter().map(|metric| &metric["MetricStat"]["Metric"]);
        assert!(throttled.into_iter().any(|metric| watches(metric, "Throttles")), "{}: throttles", function.name);
    }
    let operations = std::fs::read_to_string(home::root().join("docs/OPERATIONS.md")).unwrap();
    for (id, alarm) in alarms {
        let name = alarm["AlarmName"]["Fn::Sub"].as_str().unwrap().trim_start_matches("${AWS::StackName}-");
        assert!(operations.contains(&format!("**{name}**")), "{id}: docs/OPERATIONS.md does not say what to do");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_function_starts_with_the_environment_the_template_gives_it() {
    let template = template();
    let app = TestApp::start().await;
    for function in FUNCTIONS {
        let mut environment: Vec<(String, String)> = ["AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
            .map(|name| (name.to_owned(), "given".to_owned()))
            .into();
        let own = resource(&template, &function)["Environment"]["Variables"].as_object();
        let all = template["Globals"]["Function"]["Environment"]["Variables"].as_object();
        for (name, value) in all.into_iter().chain(own).flatten() {
            let default = value["Ref"].as_str().map(|parameter| &template["Parameters"][parameter]["Default"]);
            let given = match default {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => number.to_string(),
                _ if ["URL", "ENDPOINT", "ORIGINS"].iter().any(|part| name.contains(part)) => {
                    "https://example.com".to_owned()
                }
                _ => "given".to_owned(),
            };
            // A value would be in the template; a secret has only a name.
            assert!(value.is_object(), "{}: {name} is written out", function.name);
            environment.push((name.clone(), given));
        }
        let lambda =
            Lambda::new(function, integration_tests::binaries().join(function.binary), environment, &app.stack.logs);
        let answer = lambda.invoke(json!({ "source": "nobody" })).await;
        assert!(
            matches!(&answer, Err(InvokeError::Failed(told)) if told["errorMessage"].as_str().is_some_and(|text| text.contains("neither"))),
            "{}: {answer:?} {}",
            function.name,
            app.logs()
        );
    }
}
