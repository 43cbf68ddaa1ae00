//! template.yaml says to AWS what the functions are, and both must agree. That it is well-formed its own linters check.

mod kept;
mod rules;

use std::{collections::BTreeSet, process::Command, time::Duration};

use integration_tests::{Server, TestApp, TestDatabase};
use local::{
    functions::{FUNCTIONS, Function, QUEUES},
    home,
    lambda::{InvokeError, Lambda},
};
use serde_json::{Value, json};

/// The template as JSON, short forms of intrinsic functions written out.
pub(crate) fn template() -> Value {
    static READ: std::sync::LazyLock<Value> = std::sync::LazyLock::new(read);
    READ.clone()
}

fn read() -> Value {
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

pub(crate) fn of_type<'a>(template: &'a Value, wanted: &str) -> Vec<(&'a str, &'a Value)> {
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
    let listed = FUNCTIONS.iter().map(|function| function.name).collect();
    assert_eq!(deployed, listed, "the functions of template.yaml, and those of FUNCTIONS in shared/src/functions.rs");
    let folders = std::fs::read_dir(home::root().join("functions")).unwrap().flatten();
    let folders = folders.filter(|folder| folder.path().is_dir());
    let folders: BTreeSet<String> = folders.map(|folder| folder.file_name().into_string().unwrap()).collect();
    let binaries = FUNCTIONS.iter().map(|function| function.binary.to_owned()).collect();
    assert_eq!(
        folders, binaries,
        "the folders of functions/, and the binaries of FUNCTIONS in shared/src/functions.rs"
    );
    assert_eq!(template["Globals"]["Function"]["Runtime"], "provided.al2023");

    for function in FUNCTIONS {
        let properties = resource(&template, &function);
        let name = function.name;
        assert_eq!(properties["CodeUri"], format!("target/lambda/{}/bootstrap.zip", function.binary), "{name}");
        assert_eq!(properties["Timeout"].as_u64(), Some(function.timeout.as_secs()), "{name}");
        assert_eq!(properties["MemorySize"].as_u64(), Some(function.memory_mb.into()), "{name}");
        assert_eq!(
            properties["LoggingConfig"],
            json!({ "LogFormat": "Text", "LogGroup": { "Ref": format!("{name}Logs") } }),
            "{name}"
        );
        for queue in function.queue.iter().chain(function.sends) {
            let given = &properties["Environment"]["Variables"][queue.variable];
            assert_eq!(given["Ref"], format!("{}Queue", queue.resource), "{name}");
        }
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
            let wanted = format!("{}Queue", function.queue.unwrap().resource);
            assert_eq!(queue["Queue"]["Fn::GetAtt"], json!([wanted, "Arn"]), "{name}");
        }
        let schedules: Vec<&Value> = of("Schedule").map(|event| &event["Schedule"]).collect();
        assert_eq!(schedules.len(), usize::from(function.schedule.is_some()), "{name}");
        if let Some(schedule) = function.schedule {
            assert_eq!(schedule.every, Duration::from_secs(60));
            assert_eq!(schedules, ["rate(1 minute)"], "{name}");
        }
    }
}

/// A name that begins with the stack's.
fn named(name: &str) -> Value {
    json!({ "Fn::Sub": format!("${{AWS::StackName}}-{name}") })
}

/// The alarm of this name, which differs from what alarms of its kind are like in its description alone.
#[track_caller]
fn check_alarm(template: &Value, name: &str, metric: [&str; 2], watched: &Value, kind: &Value) {
    let alarms = of_type(template, "AWS::CloudWatch::Alarm");
    let found = alarms.iter().find(|(_, alarm)| alarm["AlarmName"] == named(name));
    let Some((_, alarm)) = found else { panic!("there is no alarm {name}") };
    let mut wanted = json!({
        "AlarmName": named(name), "AlarmDescription": alarm["AlarmDescription"], "Namespace": metric[0], "MetricName": metric[1],
        "Dimensions": [watched], "EvaluationPeriods": 1, "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "notBreaching",
        "AlarmActions": [{ "Fn::If": ["MakesTopic", { "Ref": "AlarmTopic" }, { "Ref": "AlarmTopicArn" }] }],
    });
    wanted.as_object_mut().unwrap().extend(kind.as_object().unwrap().clone());
    assert_eq!(**alarm, wanted, "{name}");
    assert!(alarm["AlarmDescription"].as_str().is_some_and(|text| text.len() > 10), "{name}");
}

#[test]
fn every_function_has_the_same_log_group_role_and_alarms() {
    let template = template();
    for function in FUNCTIONS {
        let name = function.name;
        for resource in [name.to_owned(), format!("{name}Logs"), format!("{name}Role")] {
            assert!(template["Resources"][&resource].is_object(), "template.yaml has no resource {resource}");
        }
        let logs = json!({
            "LogGroupName": { "Fn::Sub": format!("/aws/lambda/${{AWS::StackName}}-{name}") }, "RetentionInDays": { "Ref": "LogRetentionDays" },
        });
        assert_eq!(template["Resources"][format!("{name}Logs")]["Properties"], logs, "{name}");
        assert_eq!(resource(&template, &function)["FunctionName"], named(name));

        let role = &template["Resources"][format!("{name}Role")]["Properties"];
        let assume = json!({
            "Version": "2012-10-17",
            "Statement": [{ "Effect": "Allow", "Principal": { "Service": "lambda.amazonaws.com" }, "Action": "sts:AssumeRole" }],
        });
        assert_eq!(role["AssumeRolePolicyDocument"], assume, "{name}");
        let stages =
            json!({ "ForAnyValue:StringEquals": { "secretsmanager:VersionStage": ["AWSCURRENT", "AWSPREVIOUS"] } });
        let through = json!({
            "StringEquals": { "kms:ViaService": { "Fn::Sub": "secretsmanager.${AWS::Region}.${AWS::URLSuffix}" } },
        });
        let all = json!([
            {
                "Sid": "WriteOwnLog", "Effect": "Allow", "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
                "Resource": { "Fn::GetAtt": [format!("{name}Logs"), "Arn"] },
            },
            {
                "Sid": "ReadSecrets", "Effect": "Allow", "Action": "secretsmanager:GetSecretValue",
                "Resource": { "Ref": "SecretsArn" }, "Condition": stages,
            },
            { "Fn::If": [
                "HasSecretsKey",
                {
                    "Sid": "DecryptSecrets", "Effect": "Allow", "Action": "kms:Decrypt", "Resource": { "Ref": "SecretsKeyArn" },
                    "Condition": through,
                },
                { "Ref": "AWS::NoValue" },
            ] },
        ]);
        let statements = role["Policies"][0]["PolicyDocument"]["Statement"].as_array().unwrap();
        assert_eq!(Value::from(&statements[..3]), all, "{name}");

        let errors = json!({ "Statistic": "Sum", "Period": 60, "Threshold": 1 });
        let watched = json!({ "Name": "FunctionName", "Value": { "Ref": name } });
        check_alarm(&template, &format!("{}-errors", function.alarm), ["AWS/Lambda", "Errors"], &watched, &errors);
        let throttles = &template["Resources"]["ThrottlesAlarm"]["Properties"]["Metrics"];
        let throttled = throttles.as_array().unwrap().iter().map(|metric| &metric["MetricStat"]["Metric"]);
        let watches = |metric: &Value| metric["MetricName"] == "Throttles" && metric["Dimensions"] == json!([watched]);
        assert!(throttled.into_iter().any(watches), "{name}: throttles");
    }
}

#[test]
fn every_queue_has_the_same_resources_and_alarms() {
    let template = template();
    for queue in QUEUES {
        let name = queue.name;
        let worker = FUNCTIONS.into_iter().find(|function| function.queue == Some(queue)).unwrap();
        let (live, dead) = (format!("{}Queue", queue.resource), format!("{}DeadLetters", queue.resource));
        let properties = |id: &str| template["Resources"][id]["Properties"].clone();
        let wanted = json!({
            "QueueName": named(name), "SqsManagedSseEnabled": true, "VisibilityTimeout": 6 * worker.timeout.as_secs(),
            "MessageRetentionPeriod": 86_400,
            "RedrivePolicy": { "deadLetterTargetArn": { "Fn::GetAtt": [dead, "Arn"] }, "maxReceiveCount": 5 },
        });
        assert_eq!(properties(&live), wanted, "{name}");
        let wanted = json!({
            "QueueName": named(&format!("{name}-dead")), "SqsManagedSseEnabled": true, "MessageRetentionPeriod": 1_209_600,
        });
        assert_eq!(properties(&dead), wanted, "{name}");
        let watched = |id: &str| json!({ "Name": "QueueName", "Value": { "Fn::GetAtt": [id, "QueueName"] } });
        let age = json!({ "Statistic": "Maximum", "Period": 300, "Threshold": queue.oldest.as_secs() });
        let metric = ["AWS/SQS", "ApproximateAgeOfOldestMessage"];
        check_alarm(&template, &format!("{}-queue-age", queue.alarm), metric, &watched(&live), &age);
        let any = json!({ "Statistic": "Maximum", "Period": 300, "Threshold": 1 });
        let metric = ["AWS/SQS", "ApproximateNumberOfMessagesVisible"];
        check_alarm(&template, &format!("{}-dead-letters", queue.alarm), metric, &watched(&dead), &any);
        for id in [live, dead] {
            assert_eq!(template["Outputs"][format!("{id}Url")]["Value"], json!({ "Ref": id }));
        }
    }
}

#[test]
fn no_model_is_deployed_and_alarms_watch_what_is_counted_of_models() {
    let text = std::fs::read_to_string(home::root().join("template.yaml")).unwrap();
    for set in ["_MODEL", "claude-", "gemini-"] {
        assert!(!text.contains(set), "template.yaml sets a model: {set}");
    }
    let template = template();
    let watched = json!({ "Name": "function", "Value": "sweep" });
    let any = json!({ "Statistic": "Sum", "Period": 300, "Threshold": 1 });
    check_alarm(&template, "models-ending", ["Spine", "ModelsEnding"], &watched, &any);
    let unknown = &template["Resources"]["ModelsUnknownAlarm"]["Properties"];
    assert_eq!(unknown["AlarmName"], named("models-unknown"));
    assert_eq!(
        unknown["Metrics"][0]["Expression"],
        r#"SELECT SUM("ModelsUnknown") FROM SCHEMA("Spine", "function", "provider")"#
    );
    assert_eq!((&unknown["Threshold"], &unknown["TreatMissingData"]), (&json!(1), &json!("notBreaching")));
}

#[test]
fn every_alarm_is_explained() {
    let operations = std::fs::read_to_string(home::root().join("docs/OPERATIONS.md")).unwrap();
    for (id, alarm) in of_type(&template(), "AWS::CloudWatch::Alarm") {
        let name = alarm["AlarmName"]["Fn::Sub"].as_str().unwrap().trim_start_matches("${AWS::StackName}-");
        let section = operations.split_once(&format!("\n### {name}\n")).map(|(_, rest)| rest);
        let section = section.unwrap_or_else(|| panic!("{id}: docs/OPERATIONS.md has no heading `### {name}`"));
        let section = section.split("\n### ").next().unwrap_or_default();
        for part in ["**Meaning.**", "**Impact.**", "**First query", "**Action.**"] {
            assert!(section.contains(part), "{id}: docs/OPERATIONS.md says nothing under {part}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_job_has_one_worker_and_every_switch_is_a_setting() {
    let mut kinds = BTreeSet::new();
    for function in FUNCTIONS {
        for kind in function.jobs {
            assert!(kinds.insert(*kind), "{kind} has two workers");
            assert!(function.queue.is_some() || function.schedule.is_some(), "nothing wakes {}", function.name);
        }
    }
    let db = TestDatabase::new(Server::Postgres18).await;
    let kept =
        "select coalesce(string_agg(key, ' ' order by key), '') from public.system_settings where key like '%.enabled'";
    let mut switches: Vec<&str> = FUNCTIONS.iter().filter_map(|function| function.switch).collect();
    // One switch may hold several workers.
    switches.sort_unstable();
    switches.dedup();
    assert_eq!(db.text(kept).await, switches.join(" "));
}

/// A line of the table in functions/README.md.
fn row(function: &Function) -> String {
    let code = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let queue = function.queue.map_or_else(String::new, |queue| format!("`{}`", queue.name));
    let schedule = function.schedule.map_or_else(String::new, |schedule| format!("`{}`", schedule.name));
    let switch = function.switch.map_or_else(String::new, |switch| format!("`{switch}`"));
    let cells = [
        format!("`{}`", function.name),
        format!("`{}`", function.binary),
        code(function.routes),
        code(function.jobs),
        queue,
        schedule,
        switch,
        format!("{} s", function.timeout.as_secs()),
        format!("{} MB", function.memory_mb),
    ];
    format!("| {} |", cells.join(" | "))
}

#[test]
fn the_page_of_functions_is_their_list() {
    let page = std::fs::read_to_string(home::root().join("functions/README.md")).unwrap();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let wanted: Vec<String> = FUNCTIONS.iter().map(row).collect();
    assert_eq!(rows, wanted, "functions/README.md should have these lines:\n{}", wanted.join("\n"));
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
