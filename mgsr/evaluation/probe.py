"""The open checks that train nothing, on the SFT student and the teacher of a family: injected errors, span priors, diversity.

`probes/<name>/probe.json` holds summaries, for tables, and the rows that they are made of. Intervals are 95 %, by percentile
bootstrap over prompts (`low`, `high`; null where there are fewer than two prompts); samples of a prompt are averaged first.
`error`: repetition, drift, substitution. `source`: reference, student (its rollouts), scrg (the same rollouts, revised).

    schema, student_run, teacher_run, rows (prompts), samples (rollouts a prompt), timings
    injected_errors
      skipped      {error: prompts whose reference could not have it}
      detection    [{error, detector, window, rate, twin_rate, difference, low, high, prompts}]
                   detector: kl_student_teacher (as printed), kl_teacher_student, teacher_nll, log_ratio, student_entropy, random
                   window: at (k itself), after (k+1..k+5), before (k-5..k-1). rate: how often the chosen position lies there;
                   twin_rate: the same window on the uncorrupted twin; difference: rate - twin_rate, with its interval
      correction   [{error, start, measure, kept, corrected, gain, low, high, prompts}]
                   start: at_error (corrected at k), or a score's name (corrected where that score says)
                   measure: teacher_logp (the teacher's mean log-probability of what the student then wrote), rouge_l (of the
                   whole response). kept: the student goes on after the error instead; gain: corrected - kept
      rows         [{id, category, error, position (k), planted (tokens), tokens, twin_tokens,
                     chosen: {detector but random: [position or null, on the twin]},
                     hits: {detector: [at, after, before, the twin's at, after, before]},
                     continued: {kept or start: [teacher_logp or null, rouge_l]}}]
    spans
      summary      [{source, priors, category (`all`: of all), responses, spans_per_response, tokens_per_span,
                     covered (share of tokens), one_token (share of spans), span_term, low, high (of span_term), prompts}]
                   priors: phrases, fixed, sentences. span_term: Eq. 9 of a response that has a span
      rows         [{id, category, source, sample, tokens, priors: {priors: [spans, their tokens, one-token spans, span_term]}}]
    diversity
      summary      [{source, measure, mean, low, high, prompts}]
                   measure, of each response by itself: distinct_1, distinct_2, distinct_4, repetition, words
      differences  [{measure, difference, low, high, prompts}], scrg - student
      corpus       [{source, responses, distinct_1, distinct_2, distinct_4}]: one response a prompt together, mean over samples
      rows         [{id, source, sample, distinct_1, distinct_2, distinct_4, repetition, words}]
"""
