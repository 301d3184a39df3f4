"""Every error that Rote raises for a user, drawn as a tree.

RoteError                      one clear line, exit code 1
├── UsageError                 a flag, argument or filter is wrong            exit 2
├── BadInputError              a file or message is not what was expected     exit 3
│   ├── ModelFileError         an exported model
│   ├── YamlFileError          a file that a person wrote: file, line, field
│   ├── SecretError            a secret is not where a file says it is
│   ├── RuleFileError          a rule file
│   ├── FeedError              a feed of vulnerabilities, or a report of a scanner
│   ├── ImageError             an image, a database of packages in it, or an SBOM
│   └── ProtocolError          a message on the control socket
├── HostError                  this host lacks something                      exit 4
│   ├── NotRootError
│   ├── KernelSupportError     no BTF, no bpffs, a program was refused
│   ├── RuntimeUnavailableError   a container runtime does not answer
│   ├── DeliveryError          a channel did not take a message
│   └── DownloadError          a feed could not be fetched
├── StateError                 the state on disk: locked, full, corrupt       exit 5
│   └── AlreadyRunningError    a second daemon
└── NotRunningError            the daemon does not answer                     exit 6

A message names the file or object, the place in it, and what was expected.
"""

from __future__ import annotations


class RoteError(Exception):
    """Base of all errors with a message meant for a person."""

    exit_code = 1


class UsageError(RoteError):
    """A flag, an argument or a filter cannot be used as given."""

    exit_code = 2


class BadInputError(RoteError):
    """A file or message is not what was expected; nothing was changed."""

    exit_code = 3


class ModelFileError(BadInputError):
    """An exported model is damaged, of another version, or not a model."""


class YamlFileError(BadInputError):
    """A file that a person wrote cannot be used; names the file, the line and the field."""


class SecretError(BadInputError):
    """A secret is not where a file says it is, or cannot be one. Never holds the secret."""


class RuleFileError(BadInputError):
    """A rule file does not say what rules say; the rules that hold are as they were."""


class FeedError(BadInputError):
    """A feed or report cannot be used; what it said before holds."""


class ImageError(BadInputError):
    """An image, a file in it or an SBOM is damaged, or is not what it should be."""


class ProtocolError(BadInputError):
    """A message on the control socket is not one of ours."""


class HostError(RoteError):
    """This host lacks something that Rote needs."""

    exit_code = 4


class NotRootError(HostError):
    """The command needs root."""


class KernelSupportError(HostError):
    """The kernel lacks or refuses something that Rote needs."""


class RuntimeUnavailableError(HostError):
    """A container runtime does not answer."""


class DeliveryError(HostError):
    """A channel did not take a message.

    Args:
        text: why; no secrets.
        retry_after: seconds that the other side asked us to wait; 0: it did not.
        only_this: the other side refuses this message and would take others.
    """

    def __init__(self, text: str, *, retry_after: float = 0.0, only_this: bool = False) -> None:
        super().__init__(text)
        self.retry_after = retry_after
        self.only_this = only_this


class DownloadError(HostError):
    """A feed could not be fetched; what it said before holds."""


class StateError(RoteError):
    """The state on disk cannot be read or written."""

    exit_code = 5


class AlreadyRunningError(StateError):
    """Another daemon holds the state directory."""


class NotRunningError(RoteError):
    """No daemon answers on the control socket."""

    exit_code = 6
