//! Pure: who a container's user is, from its image's `/etc/passwd` and `/etc/group`.

use crate::{config::Security, error::Error};

/// A container's user as numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or("/");
        Some(Account { name, uid, gid, home })
    })
}

fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

/// `runAsUser` wins over the image's user, `runAsGroup` over its group; without a group the account's own is used, else
/// 0. An account's further groups count, as upstream's default supplementalGroupsPolicy `Merge` says.
pub(crate) fn resolve(security: &Security, passwd: &str, group: &str) -> Result<User, Error> {
    let wanted = security.user.as_deref().unwrap_or("");
    let (user_name, group_name) = wanted.split_once(':').unwrap_or((wanted, ""));
    let uid = match (security.run_as_user, user_name) {
        (Some(uid), _) => Some(uid),
        (None, "") => Some(0),
        (None, name) => name.parse().ok(),
    };
    let account = match uid {
        Some(uid) => accounts(passwd).find(|a| a.uid == uid),
        None => accounts(passwd).find(|a| a.name == user_name),
    };
    let Some(uid) = uid.or(account.as_ref().map(|a| a.uid)) else {
        return Err(Error::Invalid(format!("unable to find user {user_name}: no matching entries in passwd file")));
    };
    let named_group = match (security.run_as_group, security.run_as_user, group_name) {
        (Some(gid), _, _) => Some(gid),
        (None, Some(_), _) | (None, None, "") => None,
        (None, None, name) => match name.parse().ok().or_else(|| groups(group).find(|g| g.0 == name).map(|g| g.1)) {
            Some(gid) => Some(gid),
            None => {
                return Err(Error::Invalid(format!("unable to find group {name}: no matching entries in group file")));
            }
        },
    };
    let gid = named_group.or(account.as_ref().map(|a| a.gid)).unwrap_or(0);
    let mut further = security.supplemental_groups.clone();
    if let Some(account) = &account {
        let member = |members: &str| members.split(',').any(|m| m == account.name);
        further.extend(groups(group).filter(|(_, _, members)| member(members)).map(|(_, gid, _)| gid));
    }
    // The primary group is among them: access checks use it, and a process without groups keeps none of ours.
    further.push(gid);
    further.sort_unstable();
    further.dedup();
    let home = account.map_or("/", |a| if a.home.is_empty() { "/" } else { a.home }).to_string();
    Ok(User { uid, gid, groups: further, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nredis:x:999:998::/data:/bin/false\n";
    const GROUP: &str = "root:x:0:\ndialout:x:20:redis,pi\nredis:x:998:\ngpio:x:997:redis\n";

    fn security(user: &str) -> Security {
        Security { user: Some(user.into()), ..Security::default() }
    }

    #[test]
    fn names_are_looked_up() {
        let user = resolve(&security("redis"), PASSWD, GROUP).unwrap();
        assert_eq!(user, User { uid: 999, gid: 998, groups: vec![20, 997, 998], home: "/data".into() });
        assert_eq!(resolve(&security("redis:gpio"), PASSWD, GROUP).unwrap().gid, 997);
        assert_eq!(resolve(&security("1000:7"), PASSWD, GROUP).unwrap().gid, 7);
    }

    #[test]
    fn numbers_need_no_account() {
        let user = resolve(&security("4711"), PASSWD, GROUP).unwrap();
        assert_eq!(user, User { uid: 4711, gid: 0, groups: vec![0], home: "/".into() });
    }

    #[test]
    fn run_as_user_wins() {
        let security = Security { run_as_user: Some(0), supplemental_groups: vec![5], ..security("redis:gpio") };
        let user = resolve(&security, PASSWD, GROUP).unwrap();
        assert_eq!((user.uid, user.gid, user.groups), (0, 0, vec![0, 5]));
    }

    #[test]
    fn an_unknown_name_is_refused() {
        assert!(resolve(&security("nobody"), PASSWD, GROUP).unwrap_err().to_string().contains("no matching entries"));
    }
}
