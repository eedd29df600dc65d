"""Talks to a server with OpenAI's own client: openai_client.py URL KEY. Any surprise is an exception."""

import sys

import openai

url, key = sys.argv[1:]
client = openai.OpenAI(base_url=url, api_key=key, max_retries=0)

models = client.models.list().data
assert models[0].id, models
assert client.models.retrieve("default").id == models[0].id

question = [{"role": "user", "content": "What is the capital of France?"}]
whole = client.chat.completions.create(model="default", messages=question, temperature=0, max_tokens=16)
answer = whole.choices[0].message.content
assert "Paris" in answer, answer
assert whole.choices[0].finish_reason == "stop"
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

stream = client.chat.completions.create(
    model="default", messages=question, temperature=0, max_tokens=16, stream=True, stream_options={"include_usage": True}
)
text, reasons, usage = "", [], None
for chunk in stream:
    usage = chunk.usage or usage
    for choice in chunk.choices:
        text += choice.delta.content or ""
        if choice.finish_reason:
            reasons.append(choice.finish_reason)
assert text == answer, (text, answer)
assert reasons == ["stop"], reasons
assert usage.completion_tokens == whole.usage.completion_tokens
assert usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens

logprobs = client.chat.completions.create(
    model="default", messages=question, temperature=0, max_tokens=4, logprobs=True, top_logprobs=3
).choices[0].logprobs.content
assert len(logprobs) == 4 and all(len(entry.top_logprobs) == 3 for entry in logprobs), logprobs
assert all(entry.top_logprobs[0].token == entry.token for entry in logprobs), "greedy takes the likeliest"

completion = client.completions.create(model="default", prompt="The sky is", temperature=0, max_tokens=5, echo=True)
assert completion.choices[0].text.startswith("The sky is"), completion

stopped = client.chat.completions.create(model="default", messages=question, temperature=0, max_tokens=16, stop=" Paris")
assert stopped.choices[0].message.content == answer.split(" Paris")[0]

for error, call in [
    (openai.NotFoundError, lambda: client.chat.completions.create(model="none", messages=question)),
    (openai.BadRequestError, lambda: client.chat.completions.create(model="default", messages=question, temperature=-1)),
    (openai.BadRequestError, lambda: client.chat.completions.create(model="default", messages=[])),
    (openai.AuthenticationError, lambda: openai.OpenAI(base_url=url, api_key="wrong", max_retries=0).models.list()),
]:
    try:
        call()
    except error as raised:
        assert raised.body["message"], raised.body
    else:
        raise AssertionError(f"expected {error.__name__}")
