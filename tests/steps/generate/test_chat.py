"""A model's chat template is a stranger's program: it is run, within limits, and no further."""

from __future__ import annotations

import time

import pytest

from labctl.steps.generate.chat import MAX_TEMPLATE_BYTES, UnusableTemplateError, rendered

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi {{ there }}"}]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_a_chat_is_written_as_the_template_says() -> None:
    (text,) = rendered(CHATML, [CHAT], "<s>", "</s>")
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi {{ there }}<|im_end|>\n<|im_start|>assistant\n"
    )
    several = rendered(
        "{{ bos_token }}{{ messages[-1].content | trim }}{{ eos_token }}", [CHAT, CHAT[1:]], "<s>", "</s>"
    )
    assert several == ["<s>Hi {{ there }}</s>"] * 2


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for i in range(10**9) %}{% endfor %}x", ""),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", ""),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}x", "seconds"),
        ("{{ 'a' * 10**10 }}", ""),
        ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "more than 1 MB"),
        ("{{ ''.__class__.__mro__ }}", ""),
        ("{{ messages.__class__.__base__.__subclasses__() }}", ""),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", ""),
        ("{% include '/etc/passwd' %}", ""),
        ("{% if %}", ""),
        ("{{ raise_exception('only users may speak') }}", "only users may speak"),
        ("{{ nothing.at.all }}", ""),
        ("", "it writes nothing"),
        ("x" * (MAX_TEMPLATE_BYTES + 1), "larger than 200 kB"),
    ],
)
def test_a_hostile_template_is_refused_in_time(template: str, says: str) -> None:
    begun = time.monotonic()
    with pytest.raises(UnusableTemplateError) as caught:
        rendered(template, [CHAT], "<s>", "</s>")
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert "root:" not in str(caught.value) and "uid=" not in str(caught.value)
    assert time.monotonic() - begun < 30
