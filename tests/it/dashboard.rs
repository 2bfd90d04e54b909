//! The dashboard in a real browser: it shows the cluster, follows a takeover without a reload, and hands over on purpose.

use std::time::Duration;

use serde_json::Value;
use tests::browser::{self, Browser};
use tests::{Cluster, Node, wait_for};

/// For the page to show what the cluster has come to, beside other tests' clusters on two cores.
const SHOWN: Duration = Duration::from_secs(60);

/// How the cards say who is what: name, role, health.
const CARDS: &str = "[...document.querySelectorAll('.card[data-node]')].map(card => [card.dataset.node, card.dataset.role, card.dataset.health])";

struct Page {
    browser: Browser,
    origin: String,
}

impl Page {
    fn of(node: &Node) -> Page {
        assert!(
            browser::is_installed(),
            "there is no Chromium here: apt-get install chromium, or cargo xtask test"
        );
        let origin = format!("http://{}:{}", node.host, node.http);
        let page = Page { browser: Browser::start(), origin };
        page.browser.open(&format!("{}/dashboard", page.origin));
        page
    }

    /// The node that the page marks as open for writes, when exactly one is.
    fn primary(&self) -> Option<String> {
        let cards = self.browser.value(CARDS);
        let open = cards.as_array()?.iter().filter(|card| card[1] == "open");
        let names: Vec<&str> = open.filter_map(|card| card[0].as_str()).collect();
        (names.len() == 1).then(|| names[0].to_owned())
    }

    #[track_caller]
    fn wait_for(&self, what: &str, condition: impl Fn(&Page) -> bool) {
        wait_for(what, SHOWN, || condition(self).then_some(()));
    }

    #[track_caller]
    fn wait_until_whole(&self, nodes: usize) {
        self.wait_for("healthy nodes on the page", |page| {
            let cards = page.browser.value(CARDS);
            let healthy = |cards: &Vec<Value>| cards.iter().filter(|card| card[2] == "ok").count();
            cards.as_array().map(healthy) == Some(nodes)
                && page.browser.words("#verdict-line").starts_with("All is well")
        });
    }

    /// It has loaded once, complained of nothing, and asked nobody but its node.
    #[track_caller]
    fn check(&self, complaints_allowed: impl Fn(&str) -> bool) {
        assert_eq!(self.browser.loads(), 1, "the page was loaded again");
        let complaints = self.browser.complaints();
        let told: Vec<&String> =
            complaints.iter().filter(|complaint| !complaints_allowed(complaint)).collect();
        assert!(told.is_empty(), "the browser complained: {told:#?}");
        let origin = format!("{}/", self.origin);
        let elsewhere: Vec<String> =
            self.browser.requests().into_iter().filter(|url| !url.starts_with(&origin)).collect();
        assert!(elsewhere.is_empty(), "the page asked elsewhere: {elsewhere:?}");
    }
}

#[test]
fn a_takeover_and_a_switchover_are_seen_and_done_in_a_browser() {
    let cluster = Cluster::start(3);
    let first = cluster.wait_until_whole().primary.unwrap();
    let seen_from = cluster.names().into_iter().find(|name| *name != first).unwrap();
    let page = Page::of(cluster.node(&seen_from));
    page.wait_until_whole(3);
    assert_eq!(page.primary(), Some(first.clone()));
    page.wait_for("both arrows", |page| {
        page.browser.value("document.querySelectorAll('.flows .flow.live').length") == 2
    });

    cluster.kill_postgres(&first);
    page.wait_for("the new primary on the page", |page| page.primary().is_some_and(|name| name != first));
    page.wait_until_whole(3);
    let second = cluster.primary().unwrap();
    assert_eq!(page.primary(), Some(second.clone()));
    // Each phase of it, with its length, and who answered.
    page.wait_for("the failover among the reports", |page| {
        let told = page.browser.words("#failovers li");
        told.contains(&format!("{first} → {second}")) && told.contains("takeover")
    });
    let numbers = page.browser.words("#failovers .numbers");
    for phase in ["detection", "record", "promotion", "opening"] {
        assert!(numbers.contains(phase), "{numbers}");
    }
    assert!(numbers.contains(" ms") || numbers.contains(" s"), "{numbers}");
    assert!(
        page.browser.value("document.querySelectorAll('#failovers .phases span').length").as_u64() > Some(2)
    );

    // What another node did is among the events, with its rule.
    page.wait_for("the promotion among the events", |page| {
        page.browser.value(&format!(
            "[...document.querySelectorAll('#events li[data-node={second}] code')].some(code => code.innerText === 'admit')"
        )) == true
    });

    // Escape leaves everything as it is.
    page.wait_for("the dialog", |page| page.browser.click("#switchover"));
    page.browser.press("Escape");
    page.wait_for("no dialog", |page| page.browser.value("document.getElementById('change').open") == false);

    page.wait_for("the dialog", |page| page.browser.click("#switchover"));
    page.wait_for("the confirmation", |page| page.browser.words("#change-title").contains(&second));
    let focused = || page.browser.value("document.activeElement?.id");
    assert_eq!(focused(), "change-to", "the choice of the new primary has the focus");
    wait_for("the focus on the last button", SHOWN, || {
        page.browser.press("Tab");
        (focused() == "change-go").then_some(())
    });
    page.browser.press("Enter");
    page.wait_for("the request's end on the page", |page| {
        page.browser.words("#requests li").contains("done")
    });
    let third = wait_for("the third primary", SHOWN, || cluster.primary().filter(|name| *name != second));
    page.wait_for("the third primary on the page", |page| page.primary() == Some(third.clone()));
    page.wait_until_whole(3);
    page.check(|_| false);
}

#[test]
fn a_node_that_is_gone_is_said_to_be_and_found_again() {
    let mut cluster = Cluster::start(3);
    cluster.wait_until_whole();
    let page = Page::of(cluster.node("n1"));
    page.wait_until_whole(3);

    cluster.kill_node("n3");
    page.wait_for("n3 as unreachable", |page| {
        page.browser.value("document.querySelector('.card[data-node=n3]').dataset.health") == "away"
    });
    assert!(page.browser.words("#verdict").contains("n3 is unreachable"));
    cluster.start_agent("n3");
    page.wait_until_whole(3);

    // The one that the page is from: it says so, names the others, and goes on by itself.
    cluster.kill_agent("n1");
    page.wait_for("the banner", |page| {
        let banner = page.browser.words("#away:not([hidden])");
        banner.contains("n1 does not answer") && banner.contains("n2") && banner.contains("n3")
    });
    cluster.start_agent("n1");
    page.wait_for("no banner", |page| page.browser.value("document.getElementById('away').hidden") == true);
    page.wait_until_whole(3);
    // That a node refused connections is what happened.
    page.check(|complaint| complaint.contains("Failed to load resource"));
}
