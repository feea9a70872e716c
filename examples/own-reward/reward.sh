#!/bin/sh
# Whether an answer ends with `=` and the gold answer, which is a number.
#
# luspo writes one question a line, a JSON object with its keys in a fixed order, and reads one reply a line. Where there
# is jq, it is the better tool.

while IFS= read -r question; do
    id=${question#'{"id":'}
    id=${id%%,*}
    gold=${question#*'","ground_truth":"'}
    gold=${gold%%'"'*}
    case $question in
        *"=$gold\",\"ground_truth\":\"$gold\""*) printf '{"id":%s,"score":1,"correct":true}\n' "$id" ;;
        *) printf '{"id":%s,"score":0,"correct":false}\n' "$id" ;;
    esac
done
