//! Pure: what the command line says of snapshots by the clock.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use lexopt::prelude::*;

/// When, how many, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotOptions {
    /// From one to the next; none: nobody asked for them.
    pub(crate) every: Option<Duration>,
    /// So many are kept.
    pub(crate) keep: usize,
    /// The folder.
    pub(crate) dir: Option<PathBuf>,
    /// The bucket's URL.
    pub(crate) s3: Option<String>,
    /// Its keys.
    pub(crate) credentials: Option<PathBuf>,
    /// What its requests are signed for.
    pub(crate) region: String,
    /// Who signs its certificate, besides whom this machine trusts.
    pub(crate) ca: Option<PathBuf>,
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        let region = "us-east-1".to_owned();
        Self { every: None, keep: 5, dir: None, s3: None, credentials: None, region, ca: None }
    }
}

impl SnapshotOptions {
    /// Takes one of its own; whether it is one.
    pub(crate) fn option(&mut self, name: &str, parser: &mut lexopt::Parser) -> Result<bool, lexopt::Error> {
        match name {
            "snapshot-every" => self.every = Some(duration(&parser.value()?.string()?)?),
            "snapshot-keep" => self.keep = parser.value()?.parse()?,
            "snapshot-dir" => self.dir = Some(parser.value()?.into()),
            "snapshot-s3" => self.s3 = Some(parser.value()?.string()?),
            "snapshot-s3-credentials" => self.credentials = Some(parser.value()?.into()),
            "snapshot-s3-region" => self.region = parser.value()?.string()?,
            "snapshot-s3-ca" => self.ca = Some(parser.value()?.into()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The same again, for the controller that the supervisor starts.
    pub(crate) fn flags(&self) -> anyhow::Result<Vec<String>> {
        let text = |path: &PathBuf| path.to_str().map(str::to_owned).context("paths must be UTF-8");
        let paths = [
            ("--snapshot-dir", &self.dir),
            ("--snapshot-s3-credentials", &self.credentials),
            ("--snapshot-s3-ca", &self.ca),
        ];
        let mut flags = vec!["--snapshot-keep".to_owned(), self.keep.to_string()];
        flags.extend(["--snapshot-s3-region".to_owned(), self.region.clone()]);
        if let Some(every) = self.every {
            flags.extend(["--snapshot-every".to_owned(), format!("{}s", every.as_secs())]);
        }
        if let Some(url) = &self.s3 {
            flags.extend(["--snapshot-s3".to_owned(), url.clone()]);
        }
        for (name, path) in paths {
            if let Some(path) = path {
                flags.extend([name.to_owned(), text(path)?]);
            }
        }
        Ok(flags)
    }

    /// The folder, if there is one: named, or the usual one where no bucket is named.
    #[cfg(feature = "controller")]
    pub(crate) fn folder(&self, data_dir: &std::path::Path) -> Option<PathBuf> {
        let usual = || self.s3.is_none().then(|| data_dir.join("snapshots"));
        self.dir.clone().or_else(usual)
    }

    /// The bucket, if there is one.
    #[cfg(feature = "controller")]
    pub(crate) fn bucket(&self) -> anyhow::Result<Option<bramble_controller::backup::Bucket>> {
        let Some(url) = &self.s3 else { return Ok(None) };
        let credentials = self.credentials.clone().context("--snapshot-s3 needs --snapshot-s3-credentials FILE")?;
        let bucket = bramble_controller::backup::Bucket::new(url, &self.region, credentials, self.ca.clone());
        bucket.map(Some).map_err(|why| anyhow::anyhow!("--snapshot-s3: {why}"))
    }
}

/// `90s`, `30m`, `12h`, `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, lexopt::Error> {
    let wrong = || lexopt::Error::from(format!("{text:?} is no time; write 90s, 30m, 12h or 7d"));
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(seconds).filter(|seconds| *seconds >= 10).ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<SnapshotOptions, lexopt::Error> {
        let mut parser = lexopt::Parser::from_args(line.split_whitespace());
        let mut options = SnapshotOptions::default();
        while let Some(Long(name)) = parser.next()? {
            let name = name.to_owned();
            assert!(options.option(&name, &mut parser)?, "{name}");
        }
        Ok(options)
    }

    #[test]
    fn times_are_read_and_what_wears_a_card_out_is_refused() {
        let every = |text: &str| parsed(&format!("--snapshot-every {text}")).map(|options| options.every);
        assert_eq!(every("12h").unwrap(), Some(Duration::from_secs(43_200)));
        for wrong in ["12", "h", "1s", "-1h", "99999999999999999999d", "ä"] {
            assert!(every(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_supervisor_hands_on_what_it_was_given() {
        for line in [
            "",
            "--snapshot-every 30m --snapshot-keep 2 --snapshot-dir /a",
            "--snapshot-s3 https://h/b --snapshot-s3-credentials /k --snapshot-s3-region eu --snapshot-s3-ca /c",
        ] {
            let options = parsed(line).unwrap();
            assert_eq!(parsed(&options.flags().unwrap().join(" ")).unwrap(), options, "{line}");
        }
    }

    #[test]
    fn a_bucket_takes_the_place_of_the_usual_folder() {
        let data = std::path::Path::new("/data");
        assert_eq!(parsed("").unwrap().folder(data), Some("/data/snapshots".into()));
        assert_eq!(parsed("--snapshot-s3 https://h/b").unwrap().folder(data), None);
        assert_eq!(parsed("--snapshot-s3 https://h/b --snapshot-dir /a").unwrap().folder(data), Some("/a".into()));
    }

    #[cfg(feature = "controller")]
    #[test]
    fn a_bucket_needs_keys() {
        let error = parsed("--snapshot-s3 https://h/b").unwrap().bucket().unwrap_err().to_string();
        assert!(error.contains("needs --snapshot-s3-credentials"), "{error}");
        let wrong = parsed("--snapshot-s3 ftp://h/b --snapshot-s3-credentials /k").unwrap();
        assert!(wrong.bucket().unwrap_err().to_string().contains("--snapshot-s3: "));
    }
}
